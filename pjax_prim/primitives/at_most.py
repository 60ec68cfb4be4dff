"""Upper bounds: the condition that outputs are at most as large as their bounds."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

from . import _arguments as arguments
from . import _losses as losses
from ._definition import define


def _project_reference(y: Array, bound: Array) -> tuple[Array]:
    dtype = y.dtype
    return (jnp.minimum(*arguments.widen(y, bound)).astype(dtype),)


project_at_most_p = define("pjax_project_at_most", _project_reference)


def _reference(y: Array, bound: Array, step: Array) -> tuple[Array]:
    dtype = y.dtype
    y, bound = arguments.widen(y, bound)
    value = 0.5 * jnp.square(y - jnp.minimum(y, bound))
    return (losses.with_steps(value.astype(dtype), step),)


at_most_p = define("pjax_at_most", _reference, differentiable=True, steps=True)


def at_most(
    y: Float[Array, "..."], bound: Real[Array, "..."], *, where: Bool[Array, "..."] | None = None
) -> Float[Array, "..."]:
    r"""Asks that outputs are at most as large as their bounds, elementwise.

    Its value is half the squared distance from that set, of which the nearest point is $\min(y, b)$.

    **Arguments:**

    - `y`: any array; `bound`: b, an array that broadcasts to it.
    - `where`: which elements count, Booleans that broadcast to `y`; the value of others is zero.

    **Returns:** one value per element, in the dtype of `y`.

    **Errors:** `ArgumentError` for shapes or dtypes other than these.
    """
    (y,) = arguments.floating(y=y)
    (bound,) = losses.elementwise(y, bound=bound)
    some = None if where is None else losses.mask(where, y.shape)
    step = losses.steps_of(1.0, y.dtype, y.shape)
    given = losses.Examples(y, bound, step if some is None else jnp.where(some, step, 0), some)
    (loss,) = at_most_p.bind(given.x, given.target, given.step)
    return given.of(loss)
