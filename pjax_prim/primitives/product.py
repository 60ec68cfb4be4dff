"""Projection onto the graph of the product, {(a, b, z): z = a b}."""

from functools import partial

import jax.numpy as jnp
from jaxtyping import Array, Float

from . import _arguments as arguments
from ._definition import define
from .dot import Root, Solve, coefficients, differentiable_multiplier, multiplier, square_root


def _reference(
    a: Array, b: Array, z: Array, *, solve: Solve = multiplier, root: Root = jnp.sqrt
) -> tuple[Array, Array]:
    dtypes = a.dtype, b.dtype
    a, b, z = arguments.widen(a, b, z)
    u, extra = solve(0.25 * jnp.square(a + b), 0.25 * jnp.square(a - b), z - a * b)
    c, k, sign = coefficients(u)
    far = c > 0  # else the sum below may overflow, and does not count
    step = root(extra)
    moved_a = a + (jnp.where(far, c * (a + sign * b), 0) + sign * k * b + step)
    moved_b = b + (jnp.where(far, c * (b + sign * a), 0) + sign * k * a + sign * step)
    moved_a, moved_b = (arguments.missing_where(x, z) for x in (moved_a, moved_b))
    return moved_a.astype(dtypes[0]), moved_b.astype(dtypes[1])


project_product_p = define(
    "pjax_project_product",
    _reference,
    derivative=partial(_reference, solve=differentiable_multiplier, root=square_root),
)


def project_product(
    a: Float[Array, "..."], b: Float[Array, "..."], z: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    r"""The inputs of the nearest point of $\{(a, b, z) : z = a b\}$, elementwise:

    $$\arg\min_{a', b'} (a' - a)^2 + (b' - b)^2 + (a' b' - z)^2.$$

    **Arguments:**

    - `a`, `b`, `z`: inputs and queried output, of one shape.

    **Returns:** the projected `(a, b)`. It is unique except for $a = \pm b$ with a far target, where
    two points are nearest and one of them is returned. Inputs whose squares overflow the dtype
    are returned unchanged.

    **Errors:** `ArgumentError` for shapes or dtypes other than these.

    **Cost:** 8 scalar Newton steps an element (`dot.multiplier`).
    """
    a, b, z = arguments.floating(a=a, b=b, z=z)
    arguments.same_shape(a=a, b=b, z=z)
    moved_a, moved_b = project_product_p.bind(a, b, z)
    return moved_a, moved_b
