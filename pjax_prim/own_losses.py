"""`register_loss`: a loss of one's own, by its value and its proximal operator."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from . import primitives as pp
from .errors import ArgumentError
from .lowering.registry import register as register_lowering
from .primitives import _losses as losses
from .primitives._arguments import compute_dtype, floating, standard_promotion, widen
from .rules.losses.base import register
from .rules.losses.own import OwnLoss, batched

_NAMES: set[str] = set()


class LossFunction(Protocol):
    """`loss(x, target, lam=1.0)`, as `register_loss` returns it."""

    def __call__(self, x: Any, target: Any, lam: Any = 1.0) -> Float[Array, "..."]: ...


def register_loss(name: str, value: Callable[..., Array], prox: Callable[..., Array]) -> LossFunction:
    r"""A loss of one's own, which constraint graphs end at as at those of the library.

    ```python
    pinball = pjp.register_loss(
        "pinball",
        value=lambda x, target: jnp.maximum(0.9 * (target - x), 0.1 * (x - target)),
        prox=lambda x, target, step: x + jnp.clip(target - x, -0.1 * step, 0.9 * step),
    )
    pjp.solve(lambda params, x, y: pinball(x @ params, y), ...)
    ```

    **Arguments:**

    - `name`: the name of the loss in graphs and compiled programs, an identifier that no other loss has.
    - `value`: `value(x, target)`, one number for each element: an array whose axes are the first of x, such
      as all of them, or all but the last. It is differentiable, and an element depends on its own part of x.
    - `prox`: `prox(x, target, step)`, in the shape of x the point x' that minimises
      $|x' - x|^2 / (2 \lambda)$ plus the value at x', for each element; `step`, its $\lambda$, has the shape
      of the value and is above zero. It is not differentiated.

    Both are traced by JAX, in float32 for narrower dtypes, and in the shapes that the loss was called with;
    under `jax.vmap` they are mapped.

    **Returns:** `loss(x, target, lam=1.0)`, with `lam` the step of each element: a number above zero, or an
    array of numbers of at least zero that broadcasts to the value. An element whose step is zero is left out.

    **Errors:** `ArgumentError` for a name that is taken or no identifier, and for what is no function; at a
    call for arguments that are no arrays, and for results of other shapes than these.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise ArgumentError(f"name: expected an identifier, given {name!r}")
    if name in _NAMES or {f"pjax_{name}", f"pjax_prox_{name}"} & set(pp.DEFINITIONS):
        raise ArgumentError(f"name: expected one that no other loss has, given {name!r}")
    for argument, function in {"value": value, "prox": prox}.items():
        if not callable(function):
            raise ArgumentError(f"{argument}: expected a function, given {function!r}")
    operation, proximal = _primitives(name, value, prox)
    _NAMES.add(name)
    constraint = type(name, (OwnLoss,), {"name": name, "operation": operation, "prox": proximal})
    register(constraint)

    def loss(x: Any, target: Any, lam: Any = 1.0) -> Float[Array, "..."]:
        (x,) = floating(x=x)
        target = target if isinstance(target, jax.Array) else np.asarray(target)
        if target.dtype == object:
            raise ArgumentError(f"target: expected an array, given {target!r}")
        shape = _shape_of_value(value, prox, x, target)
        ranks = (x.ndim, target.ndim, len(shape))
        (result,) = operation.bind(x, jnp.asarray(target), losses.steps_of(lam, x.dtype, shape), ranks=ranks)
        return result

    loss.__name__ = loss.__qualname__ = name
    return loss


def _primitives(
    name: str, value: Callable[..., Array], prox: Callable[..., Array]
) -> tuple[pp.Definition, pp.Definition]:
    """The primitives of the loss and of its proximal operator."""

    def evaluate(x: Array, target: Array, step: Array, *, ranks: tuple[int, int, int]) -> tuple[Array]:
        def one(x: Array, target: Array, step: Array) -> Array:
            return losses.with_steps(jnp.asarray(value(x, target)).astype(dtype), step)

        dtype = x.dtype
        return (batched(one, ranks, *widen(x), target, step),)

    def project(x: Array, target: Array, step: Array, *, ranks: tuple[int, int, int]) -> tuple[Array]:
        def one(x: Array, target: Array, step: Array) -> Array:
            # The function is not asked for steps of zero, with which it might divide.
            moved = jnp.asarray(prox(x, target, jnp.where(step == 0, 1, step))).astype(x.dtype)
            return losses.moved_by(x, moved, step.reshape(step.shape + (1,) * (x.ndim - step.ndim)))

        return (batched(one, ranks, *widen(x), target, step).astype(x.dtype),)

    operation = pp.make(f"pjax_{name}", evaluate, differentiable=True, steps=True)
    proximal = pp.make(f"pjax_prox_{name}", project)
    for definition in (operation, proximal):
        register_lowering(definition)
    return operation, proximal


def _shape_of_value(value: Callable[..., Array], prox: Callable[..., Array], x: Any, target: Any) -> Any:
    """The shape of a loss's value; both functions are traced with their arguments' shapes."""
    wide = jax.ShapeDtypeStruct(x.shape, compute_dtype(x.dtype))
    given = jax.ShapeDtypeStruct(target.shape, jax.dtypes.canonicalize_dtype(target.dtype))
    with standard_promotion():
        result = jax.eval_shape(value, wide, given)
        shape = getattr(result, "shape", None)
        if shape is None or shape != x.shape[: len(shape)]:
            raise ArgumentError(
                f"value: expected an array whose axes are the first of x, of shape {x.shape}, given "
                f"{'no array' if shape is None else f'shape {shape}'}"
            )
        moved = jax.eval_shape(prox, wide, given, jax.ShapeDtypeStruct(shape, wide.dtype))
    if getattr(moved, "shape", None) != x.shape:
        other = "no array" if not hasattr(moved, "shape") else f"shape {moved.shape}"
        raise ArgumentError(f"prox: expected an array of the shape of x, {x.shape}, given {other}")
    return shape
