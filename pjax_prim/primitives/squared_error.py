"""The squared error, and its proximal operator."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from . import _arguments as arguments
from ._definition import define


def _prox_reference(x: Array, target: Array, *, lam: float) -> tuple[Array]:
    dtype = x.dtype
    x, target = arguments.widen(x, target)
    return ((x + lam / (1 + lam) * (target - x)).astype(dtype),)


prox_squared_error_p = define("pjax_prox_squared_error", _prox_reference)


def prox_squared_error(
    x: Float[Array, "..."], target: Float[Array, "..."], lam: float = 1.0
) -> Float[Array, "..."]:
    r"""The proximal operator of half the squared distance to a target, elementwise:

    $$\arg\min_{x'} \frac{(x' - x)^2}{2\lambda} + \frac{(x' - t)^2}{2}
      = \frac{x + \lambda t}{1 + \lambda}.$$

    **Arguments:**

    - `x`, `target`: arrays of one shape.
    - `lam`: the step $\lambda$, above zero; static.

    **Returns:** an array like `x`. Unique.

    **Errors:** `ArgumentError` for shapes, dtypes or settings other than these.

    **Cost:** one pass.
    """
    arguments.positive(lam=lam)
    x, target = arguments.floating(x=x, target=target)
    arguments.same_shape(x=x, target=target)
    (moved,) = prox_squared_error_p.bind(x, target, lam=float(lam))
    return moved


def _reference(x: Array, target: Array, *, lam: float) -> tuple[Array]:
    del lam
    dtype = x.dtype
    x, target = arguments.widen(x, target)
    return ((0.5 * jnp.sum(jnp.square(x - target), -1)).astype(dtype),)


squared_error_p = define("pjax_squared_error", _reference, differentiable=True)


def squared_error(
    x: Float[Array, "... C"], target: Float[Array, "... C"] | Int[Array, "..."], lam: float = 1.0
) -> Float[Array, "..."]:
    """Half the squared distance of outputs to their targets.

    **Arguments:**

    - `x`: (..., C).
    - `target`: (..., C), or (...) integer classes, which become one-hot.
    - `lam`: the step of the proximal operator that a constraint graph uses; it does not enter
      the value.

    **Returns:** one value per example, (...).

    **Errors:** `ArgumentError` for shapes, dtypes or settings other than these, or a class out
    of range; the values of traced targets are not checked.
    """
    arguments.positive(lam=lam)
    (x,) = arguments.floating(x=x)
    arguments.min_rank(1, x=x)
    target = arguments.labels_for(x, target, name="target", check=False)
    (loss,) = squared_error_p.bind(x, target, lam=float(lam))
    return loss
