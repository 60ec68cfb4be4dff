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
    wide, z = arguments.widen(a, z)
    largest = jnp.max(wide, -1)
    below = jnp.sort(wide - largest[..., None], axis=-1, descending=True)
    sums = (z - largest)[..., None] + jnp.cumsum(below, -1)
    y = largest + jnp.max(sums / jnp.arange(2, a.shape[-1] + 2, dtype=wide.dtype), -1)
    return (_to_maximum(wide, largest, y).astype(a.dtype),)


def reference_by_search(a: Array, z: Array) -> tuple[Array]:
    """The same without a sort, in as many passes as the longest search takes.

    Starting from the entries above $(z + m)/2$, a lower bound of y, each pass takes y for the
    entries still above the last one. These become fewer until they stay, at most n times and
    in practice two or three (Michelot, 1986).
    """
    wide, z = arguments.widen(a, z)
    largest = jnp.max(wide, -1)

    def above(y: Array) -> Array:
        return wide > y[..., None]

    def count(y: Array) -> Array:
        return jnp.sum(above(y), -1, dtype=wide.dtype)

    def search(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        y, entries, _ = carry
        total = jnp.sum(jnp.where(above(y), wide - largest[..., None], 0), -1)
        y = largest + ((z - largest) + total) / (jnp.maximum(entries, 1) + 1)
        left = count(y)
        return y, left, jnp.any(left < entries)

    start = largest + 0.5 * (z - largest)
    first = search((start, count(start), jnp.array(True)))
    y, *_ = jax.lax.while_loop(lambda carry: carry[2], search, first)
    return (_to_maximum(wide, largest, y).astype(a.dtype),)


def _to_maximum(a: Array, largest: Array, y: Array) -> Array:
    """`a` with what is above y lowered to it, or with its first largest entry raised to it."""
    places = jax.lax.broadcasted_iota(jnp.int32, a.shape, a.ndim - 1)
    first = jnp.min(jnp.where(a == largest[..., None], places, a.shape[-1]), -1)
    return jnp.where(places == first[..., None], y[..., None], jnp.minimum(a, y[..., None]))


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
