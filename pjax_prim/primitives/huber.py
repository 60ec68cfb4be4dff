"""The Huber loss, and its proximal operator."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from . import _arguments as arguments
from . import _losses as losses
from ._definition import define
from .squared_error import share


def displace_huber(x: Array, target: Array, delta: Array, step: Array) -> Array:
    """By how much the proximal operator moves x: as that of half the square, but at most step times delta."""
    furthest = step * delta
    return jnp.clip(share(step) * (target - x), -furthest, furthest)


def _prox_reference(x: Array, target: Array, delta: Array, step: Array) -> tuple[Array]:
    dtype = x.dtype
    x, target, delta, step = arguments.widen(x, target, delta, step)
    moved = x + displace_huber(x, target, delta, step)
    return (losses.moved_by(x.astype(dtype), moved.astype(dtype), step),)


prox_huber_p = define("pjax_prox_huber", _prox_reference)


def _reference(x: Array, target: Array, delta: Array, step: Array) -> tuple[Array]:
    dtype = x.dtype
    x, target, delta = arguments.widen(x, target, delta)
    gap = jnp.abs(x - target)
    inner = jnp.minimum(gap, delta)
    value = 0.5 * jnp.square(inner) + delta * (gap - inner)
    return (losses.with_steps(value.astype(dtype), step),)


huber_p = define("pjax_huber", _reference, differentiable=True, steps=True)


def huber(
    x: Float[Array, "..."],
    target: Real[Array, "..."],
    delta: float | Float[Array, "..."] = 1.0,
    lam: float | Float[Array, "..."] = 1.0,
) -> Float[Array, "..."]:
    r"""The Huber loss (Huber 1964), elementwise: with d the absolute difference to a target,

    $$d^2 / 2 \text{ where } d \le \delta, \qquad \delta (d - \delta / 2) \text{ elsewhere.}$$

    Its proximal operator, $\arg\min_{x'} (x' - x)^2 / (2 \lambda)$ plus the loss at x', goes
    $\lambda / (1 + \lambda)$ of the way to the target, and no further than $\lambda \delta$.

    **Arguments:**

    - `x`: any array; `target`: an array that broadcasts to it.
    - `delta`: a number above zero, or an array of such numbers that broadcasts to `x`.
    - `lam`: the step of the proximal operator that a constraint graph uses; it does not enter
      the value. It is a number above zero, or an array of numbers of at least zero that broadcasts to `x`.

    **Returns:** one value per element, in the dtype of `x`.

    **Errors:** `ArgumentError` for shapes, dtypes or settings other than these.
    """
    (x,) = arguments.floating(x=x)
    (target,) = losses.elementwise(x, target=target)
    losses.check_positive(delta, "delta")
    (delta,) = losses.elementwise(x, delta=delta)
    (loss,) = huber_p.bind(x, target, delta, losses.steps_of(lam, x.dtype, x.shape))
    return loss
