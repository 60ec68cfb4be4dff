"""Hard labels: the condition that outputs equal their targets."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from . import _arguments as arguments
from . import _losses as losses
from ._definition import define


def _project_reference(x: Array, target: Array) -> tuple[Array]:
    dtype = x.dtype
    _, target = jnp.broadcast_arrays(x, target)
    return (target.astype(dtype),)


project_equality_p = define("pjax_project_equality", _project_reference)


def project_equality(x: Float[Array, "..."], target: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The nearest point of the set $\{t\}$, whatever the query: the target.

    **Arguments:**

    - `x`, `target`: the query and the only point allowed, of one shape.

    **Returns:** the target. It is unique.

    **Errors:** `ArgumentError` for shapes or dtypes other than these.

    **Cost:** none.
    """
    x, target = arguments.floating(x=x, target=target)
    arguments.same_shape(x=x, target=target)
    (moved,) = project_equality_p.bind(x, target)
    return moved


def _reference(x: Array, target: Array, step: Array) -> tuple[Array]:
    dtype = x.dtype
    x, target = arguments.widen(x, target)
    value = 0.5 * jnp.sum(jnp.square(x - target), -1)
    return (losses.with_steps(value.astype(dtype), step),)


equality_p = define("pjax_equality", _reference, differentiable=True, steps=True, version=2)


def equality(
    x: Float[Array, "... C"], target: Float[Array, "... C"] | Int[Array, "..."]
) -> Float[Array, "..."]:
    """Asks that outputs equal their targets; its value is half their squared distance.

    **Arguments:**

    - `x`: (..., C).
    - `target`: (..., C), or (...) integer classes, which become one-hot.

    **Returns:** one value per example, (...).

    **Errors:** `ArgumentError` for shapes or dtypes other than these, or a class out of range;
    the values of traced targets are not checked.
    """
    (x,) = arguments.floating(x=x)
    given = losses.examples(x, target, 1.0, names=("x", "target"))
    (loss,) = equality_p.bind(given.x, given.target, given.step)
    return loss
