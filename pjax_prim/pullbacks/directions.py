"""The direction in which pullbacks move the parameters of a traced function."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from .._compat import open_jaxpr
from ..dependence import dependence
from ..errors import GraphError
from ..primitives._arguments import standard_promotion
from ..rules import is_loss
from .interpreter import Entry, Settings, interpret
from .projections import Finite

WEIGHT = 100.0
"""The weight of what a product's operands are multiplied with, by default."""


def has_equation(closed: Any, wanted: Callable[[Any], bool]) -> bool:
    """Whether a program, or one that it calls, has such an equation."""
    jaxpr, _ = open_jaxpr(closed)
    return any(
        wanted(equation) or any(has_equation(x, wanted) for x in _programs(equation.params.values()))
        for equation in jaxpr.eqns
    )


def settings_of(closed: Any, lam: Any, weight: Any) -> Settings:
    """The settings of an interpretation: to first order, or of finite steps of the losses."""
    if lam is None:
        return Settings(weight)
    return Settings(weight, Finite(lam, lam * max(_examples(closed), 1)))


def directions(
    closed: Any,
    parameters: Sequence[Array],
    others: Sequence[Array],
    settings: Settings,
    results: int,
) -> tuple[list[Array], list[Array]]:
    """One pass forward and one back.

    **Arguments:** `closed`, a jaxpr whose inputs are `parameters`, then `others`; `results`, how many of its
    first outputs are values whose means are added up to the loss.

    **Returns:** all outputs; for each parameter minus its displacement.

    **Errors:** `GraphError` for a value that is no floating-point array, or depends on no parameter.
    """
    jaxpr, _ = open_jaxpr(closed)
    flags = dependence(closed, [True] * len(parameters) + [False] * len(others))[:results]
    for variable in jaxpr.outvars[:results]:
        if not jnp.issubdtype(variable.aval.dtype, jnp.floating):
            raise GraphError(
                f"fn: expected it to return floating-point numbers, given dtype {variable.aval.dtype} "
                f"(shape {variable.aval.shape})"
            )
    if not any(flags):
        raise GraphError(
            "fn: what it returns depends on no parameter: no loss depends on the parameters, so there is no "
            "direction"
        )

    def program(parameters: list[Array]) -> tuple[Array, list[Array]]:
        arguments = [*(Entry(x, True, True) for x in parameters), *map(Entry, others)]
        outputs = [jnp.asarray(entry.value) for entry in interpret(settings, closed, arguments)]
        total = sum((_mean(x) for x in outputs[1:results]), _mean(outputs[0]))
        return total, outputs

    with standard_promotion():
        total, back, outputs = jax.vjp(program, list(parameters), has_aux=True)
        (found,) = back(lax.full_like(total, 1))
    return outputs, found


def _mean(x: Array) -> Array:
    return jnp.mean(x) if x.ndim else x


def _examples(closed: Any) -> int:
    """The elements of the largest loss of a program, all iterations of loops counted; 1 without any."""
    jaxpr, _ = open_jaxpr(closed)
    most = 0
    for equation in jaxpr.eqns:
        if is_loss(equation.primitive):
            most = max(most, equation.outvars[0].aval.size)
            continue
        times = equation.params.get("length", 1) if equation.primitive is lax.scan_p else 1
        for inner in _programs(equation.params.values()):
            most = max(most, times * _examples(inner))
    return most


def _programs(values: Any) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
            found.append(value)
        elif isinstance(value, tuple | list):
            found += _programs(value)
    return found
