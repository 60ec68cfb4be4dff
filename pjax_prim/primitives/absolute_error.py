"""The absolute error, and its proximal operator."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from . import _arguments as arguments
from . import _losses as losses
from ._definition import define


def _prox_reference(x: Array, target: Array, step: Array) -> tuple[Array]:
    dtype = x.dtype
    x, target, step = arguments.widen(x, target, step)
    gap = target - x
    moved = jnp.where(jnp.abs(gap) <= step, target, x + jnp.clip(gap, -step, step))
    return (losses.moved_by(x.astype(dtype), moved.astype(dtype), step),)


prox_absolute_error_p = define("pjax_prox_absolute_error", _prox_reference)


def _reference(x: Array, target: Array, step: Array) -> tuple[Array]:
    dtype = x.dtype
    x, target = arguments.widen(x, target)
    return (losses.with_steps(jnp.abs(x - target).astype(dtype), step),)


absolute_error_p = define("pjax_absolute_error", _reference, differentiable=True, steps=True)


def absolute_error(
    x: Float[Array, "..."], target: Real[Array, "..."], lam: float | Float[Array, "..."] = 1.0
) -> Float[Array, "..."]:
    r"""The absolute difference to a target, elementwise.

    Its proximal operator, $\arg\min_{x'} (x' - x)^2 / (2 \lambda) + |x' - t|$, goes towards the target by
    $\lambda$, and no further than to it.

    **Arguments:**

    - `x`: any array; `target`: t, an array that broadcasts to it.
    - `lam`: the step of the proximal operator that a constraint graph uses; it does not enter
      the value. It is a number above zero, or an array of numbers of at least zero that broadcasts to `x`.

    **Returns:** one value per element, in the dtype of `x`.

    **Errors:** `ArgumentError` for shapes, dtypes or settings other than these.
    """
    (x,) = arguments.floating(x=x)
    (target,) = losses.elementwise(x, target=target)
    (loss,) = absolute_error_p.bind(x, target, losses.steps_of(lam, x.dtype, x.shape))
    return loss
