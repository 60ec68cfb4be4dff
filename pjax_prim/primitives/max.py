"""Projection onto the graph of the maximum, {(a, z): z = max(a_1, ..., a_n)}."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from . import _arguments as arguments
from ._definition import define


def _reference(a: Array, z: Array) -> tuple[Array]:
    r"""The output y of the nearest point solves $y - z = \sum_i \max(a_i - y, 0)$ if it lowers
    entries. For any set of k entries with sum s the right side is at least $s - k y$, with
    equality for those above y, so y is the largest $(z + s_k)/(k + 1)$ over the sums $s_k$ of
    the k largest entries: no search. Measured from the largest entry m these sums are not
    positive; for $z \ge m$ the first one wins, and $(z + m)/2$ is where m is raised to.
    """
    dtype = a.dtype
    a, z = arguments.widen(a, z)
    n = a.shape[-1]
    largest = jnp.max(a, -1)
    below = jnp.sort(a - largest[..., None], axis=-1, descending=True)
    sums = (z - largest)[..., None] + jnp.cumsum(below, -1)
    y = (largest + jnp.max(sums / jnp.arange(2, n + 2, dtype=a.dtype), -1))[..., None]
    first = jnp.argmax(a, -1)[..., None] == jax.lax.iota(jnp.int32, n)
    return (jnp.where(first, y, jnp.minimum(a, y)).astype(dtype),)


project_max_p = define("pjax_project_max", _reference)


def project_max(a: Float[Array, " n"], z: Float[Array, ""]) -> Float[Array, " n"]:
    r"""The input of the nearest point of $\{(a, z) : z = \max_i a_i\}$:

    $$\arg\min_{a'} |a' - a|^2 + (\max_i a'_i - z)^2.$$

    **Arguments:**

    - `a`: a vector of length n, at least 1.
    - `z`: the queried output, a scalar.

    One query; use `jax.vmap` for a batch.

    **Returns:** `a` with its largest entries lowered to a common value, or with its largest
    entry raised. Unique but for ties where the maximum has to grow: then the first is raised.

    **Errors:** `ArgumentError` for shapes or dtypes other than these.

    **Cost:** one sort and one cumulative sum.
    """
    a, z = arguments.floating(a=a, z=z)
    arguments.rank(1, a=a)
    arguments.rank(0, z=z)
    arguments.not_empty(a=a)
    (moved,) = project_max_p.bind(a, z)
    return moved
