"""The squared error, and its proximal operator."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from . import _arguments as arguments
from . import _losses as losses
from ._definition import define


def _prox_reference(x: Array, target: Array, step: Array) -> tuple[Array]:
    dtype = x.dtype
    x, target, step = arguments.widen(x, target, step)
    moved = (x + share(step) * (target - x)).astype(dtype)
    return (losses.moved_by(x.astype(dtype), moved, step),)


def share(step: Array) -> Array:
    """The part of the way to a set that the proximal operator of half the squared distance goes."""
    return step / (1 + step)


prox_squared_error_p = define("pjax_prox_squared_error", _prox_reference, version=2)


def prox_squared_error(
    x: Float[Array, "..."], target: Float[Array, "..."], lam: float | Float[Array, "..."] = 1.0
) -> Float[Array, "..."]:
    r"""The proximal operator of half the squared distance to a target, elementwise:

    $$\arg\min_{x'} \frac{(x' - x)^2}{2\lambda} + \frac{(x' - t)^2}{2}
      = \frac{x + \lambda t}{1 + \lambda}.$$

    **Arguments:**

    - `x`, `target`: arrays of one shape.
    - `lam`: the step $\lambda$, a number above zero, or an array of numbers of at least zero that broadcasts
      to `x`.

    **Returns:** an array like `x`. It is unique.

    **Errors:** `ArgumentError` for shapes, dtypes or settings other than these.

    **Cost:** one pass over the arrays.
    """
    x, target = arguments.floating(x=x, target=target)
    arguments.same_shape(x=x, target=target)
    (moved,) = prox_squared_error_p.bind(x, target, losses.steps_of(lam, x.dtype, x.shape))
    return moved


def _reference(x: Array, target: Array, step: Array) -> tuple[Array]:
    dtype = x.dtype
    x, target = arguments.widen(x, target)
    value = 0.5 * jnp.sum(jnp.square(x - target), -1)
    return (losses.with_steps(value.astype(dtype), step),)


squared_error_p = define("pjax_squared_error", _reference, differentiable=True, steps=True, version=2)


def squared_error(
    x: Float[Array, "... C"],
    target: Float[Array, "... C"] | Int[Array, "..."],
    lam: float | Float[Array, "..."] = 1.0,
    *,
    axis: int = -1,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """Half the squared distance of outputs to their targets.

    **Arguments:**

    - `x`: (..., C).
    - `target`: (..., C), or (...) integer classes, which become one-hot.
    - `lam`: the step of the proximal operator that a constraint graph uses; it does not enter
      the value. It is a number above zero, or an array of numbers of at least zero that broadcasts to (...).
    - `axis`: the axis of the sum, in `x` and in a target of its shape.
    - `where`: which examples count, Booleans that broadcast to (...); the loss of others is zero.

    **Returns:** one value per example, (...).

    **Errors:** `ArgumentError` for shapes, dtypes or settings other than these, or a class out
    of range; the values of traced targets are not checked.
    """
    (x,) = arguments.floating(x=x)
    given = losses.examples(x, target, lam, names=("x", "target"), axis=axis, where=where)
    (loss,) = squared_error_p.bind(given.x, given.target, given.step)
    return given.of(loss)
