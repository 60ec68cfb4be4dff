"""The table of pullbacks, keyed by JAX primitive."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jaxtyping import Array

from ..errors import ArgumentError


@dataclass(frozen=True)
class Step:
    """What a pullback may look at.

    - `operands`: the inputs of the operation, in its order.
    - `outputs`: the results that it gave.
    - `params`: the parameters of its JAX equation.
    - `moves`: for each input whether it depends on a parameter of the function.
    - `weight`: the setting of `pjp.displacement`.
    """

    operands: tuple[Array, ...]
    outputs: tuple[Array, ...]
    params: dict[str, Any]
    moves: tuple[bool, ...]
    weight: float | Array


Pullback = Callable[[Step, tuple[Array, ...]], Sequence[Array | None]]
"""`pullback(step, cotangents) -> for each operand a cotangent or None`.

A cotangent is minus the displacement that is asked for, in the units of a gradient: a pullback that returns
what `jax.vjp` would makes the displacement a gradient. None is zero.
"""

_PULLBACKS: dict[Primitive, Pullback] = {}


def register_pullback(primitive: Primitive, pullback: Pullback, *, replace: bool = False) -> None:
    """Gives a JAX primitive a pullback for `pjp.displacement`.

    Primitives without one have their own derivative. Register one for a hard function whose derivative is
    zero or missing, so that displacements pass through it.

    **Arguments:**

    - `primitive`: any `jax.extend.core.Primitive` whose outputs are floating-point arrays.
    - `pullback`: takes a `pjp.Step` and the cotangents of the outputs, and returns for each operand a
      cotangent of its shape, or None for zero.
    - `replace`: whether it takes the place of one that is registered.

    **Errors:** `ArgumentError` if the arguments are not of these kinds, or the primitive has a pullback
    already.
    """
    if not isinstance(primitive, Primitive):
        raise ArgumentError(
            f"primitive: expected a jax.extend.core.Primitive, given {type(primitive).__name__}"
        )
    if not callable(pullback):
        raise ArgumentError(f"pullback: expected a function of (step, cotangents), given {pullback!r}")
    if primitive in _PULLBACKS and not replace:
        raise ArgumentError(
            f"primitive: {primitive.name!r} already has a pullback; replace=True takes its place"
        )
    _PULLBACKS[primitive] = pullback


def pullback_of(primitive: Primitive) -> Pullback | None:
    """The pullback of a primitive, or None if its own derivative serves."""
    return _PULLBACKS.get(primitive)


def is_differentiable(x: Any) -> bool:
    """Whether an array has cotangents of its own dtype."""
    return bool(jnp.issubdtype(jnp.result_type(x), jnp.inexact))


def bind_with_pullback(
    bind: Callable[..., tuple[Array, ...]],
    operands: Sequence[Array],
    params: dict[str, Any],
    moves: Sequence[bool],
    weight: float | Array,
    pullback: Pullback,
    name: str,
) -> tuple[Array, ...]:
    """`bind(*operands)`, whose derivative in reverse is `pullback`."""

    @jax.custom_vjp
    def operation(*operands: Array) -> tuple[Array, ...]:
        return bind(*operands)

    def forward(*operands: Array) -> tuple[tuple[Array, ...], Any]:
        outputs = bind(*operands)
        return outputs, (operands, outputs)

    def back(saved: Any, cotangents: tuple[Array, ...]) -> tuple[Array | None, ...]:
        operands, outputs = saved
        found = pullback(Step(operands, outputs, params, tuple(moves), weight), tuple(cotangents))
        return _checked(name, operands, found)

    operation.defvjp(forward, back)
    return operation(*operands)


def _checked(name: str, operands: Sequence[Array], found: Any) -> tuple[Array | None, ...]:
    if not isinstance(found, tuple | list) or len(found) != len(operands):
        raise ArgumentError(
            f"pullback of {name!r}: expected a cotangent or None for each of {len(operands)} operand(s), "
            f"given {found!r}"
        )
    for position, (operand, cotangent) in enumerate(zip(operands, found, strict=True)):
        if cotangent is not None and jnp.shape(cotangent) != operand.shape:
            raise ArgumentError(
                f"pullback of {name!r}: expected shape {operand.shape} for operand {position}, "
                f"given {jnp.shape(cotangent)}"
            )
    return tuple(
        None if cotangent is None or not is_differentiable(operand) else cotangent.astype(operand.dtype)
        for operand, cotangent in zip(operands, found, strict=True)
    )


def sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    """The sum over the axes along which an operand was broadcast."""
    if x.shape == shape:
        return x
    zeros = jnp.zeros(shape, x.dtype)
    return jax.vjp(lambda operand: jnp.broadcast_to(operand, x.shape), zeros)[1](x)[0]
