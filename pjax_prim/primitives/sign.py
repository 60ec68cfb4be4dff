"""Projection onto the closed graph of the sign, {(a, 1): a >= 0} and {(a, -1): a <= 0}."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from . import _arguments as arguments
from ._definition import define


def _reference(a: Array, z: Array) -> tuple[Array]:
    """Going to 0 for the other half-line costs a^2 and saves 4 |z| where z has the other sign."""
    dtype = a.dtype
    a, z = arguments.widen(a, z)
    against = jnp.maximum(-jnp.sign(a) * z, 0)
    new = jnp.where(jnp.abs(a) < 2 * jnp.sqrt(against), 0, a)
    return (arguments.missing_where(new, z).astype(dtype),)


project_sign_p = define("pjax_project_sign", _reference)


def project_sign(a: Float[Array, "..."], z: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The input of the nearest point of $\{(a, s) : s = \pm 1,\ s a \ge 0\}$, elementwise:

    $$\arg\min_{a'} \min_{s = \pm 1,\ s a' \ge 0} (a' - a)^2 + (s - z)^2.$$

    The point (0, 0) of `jnp.sign`, alone between the two half-lines, is left out.

    **Arguments:**

    - `a`, `z`: input and queried output, of one shape.

    **Returns:** `a`, or 0 where the other sign is nearer. It is unique except where both cost the same;
    then `a` is taken.

    **Errors:** `ArgumentError` for shapes or dtypes other than these.

    **Cost:** one pass over the arrays.
    """
    a, z = arguments.floating(a=a, z=z)
    arguments.same_shape(a=a, z=z)
    (moved,) = project_sign_p.bind(a, z)
    return moved
