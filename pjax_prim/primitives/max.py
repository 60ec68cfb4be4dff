"""Projection onto the graph of the maximum, {(a, z): z = max(a_1, ..., a_n)}."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from . import _arguments as arguments
from ._definition import define


class Found(NamedTuple):
    """A projection: the output y, the place of the first largest entry, the squared displacement."""

    output: Array
    first: Array
    moved: Array


def find_by_sort(a: Array, z: Array) -> Found:
    r"""The output y of the nearest point solves $y - z = \sum_i \max(a_i - y, 0)$ if it lowers
    entries. For any set of k entries with sum s the right side is at least $s - k y$, with
    equality for those above y, so y is the largest $(z + s_k)/(k + 1)$ over the sums $s_k$ of
    the k largest entries: no search. Measured from the largest entry m these sums are not
    positive; for $z \ge m$ the first one wins, and $(z + m)/2$ is where m is raised to.
    """
    largest = jnp.max(a, -1)
    below = jnp.sort(a - largest[..., None], axis=-1, descending=True)
    sums = (z - largest)[..., None] + jnp.cumsum(below, -1)
    y = largest + jnp.max(sums / jnp.arange(2, a.shape[-1] + 2, dtype=a.dtype), -1)
    return Found(y, _first(a == largest[..., None]), _moved(a, largest, y))


def find_by_search(a: Array, z: Array) -> Found:
    """The same without a sort. Where one entry moves, the usual case, a single pass finds it.

    The maxima of blocks of about the square root of the length give the first largest entry and
    the largest of the others. Rows where that is above $(z + m)/2$ are searched.
    """
    shape, length = jnp.broadcast_shapes(a.shape[:-1], z.shape), a.shape[-1]
    a, z = jnp.broadcast_to(a, (*shape, length)), jnp.broadcast_to(z, shape)
    size = next(size for size in range(math.isqrt(length), 0, -1) if length % size == 0)
    blocks = a.reshape(*a.shape[:-1], -1, size)
    maxima = jnp.max(blocks, -1)
    largest = jnp.max(maxima, -1)
    block = _first(maxima == largest[..., None])
    inside = jnp.take_along_axis(blocks, block[..., None, None], -2)[..., 0, :]
    place = _first(inside == largest[..., None])
    others = [
        jnp.max(jnp.where(_places(x) == taken[..., None], -jnp.inf, x), -1)
        for x, taken in ((maxima, block), (inside, place))
    ]
    start = largest + 0.5 * (z - largest)
    y, moved = _search_where(jnp.maximum(*others) > start, a, z, largest, start)
    return Found(y, block * size + place, moved)


def find_by_comparing(a: Array, z: Array) -> Found:
    """The same for few entries, in elementwise operations: a sorting network in place of the sort."""
    n = a.shape[-1]
    columns = [a[..., i] for i in range(n)]
    largest = functools.reduce(jnp.maximum, columns)
    first = jnp.full(largest.shape, n - 1, jnp.int32)
    for i in reversed(range(n - 1)):
        first = jnp.where(columns[i] == largest, i, first)
    below = [column - largest for column in columns]
    for start in range(n):
        for i in range(start % 2, n - 1, 2):
            pair = below[i], below[i + 1]
            below[i], below[i + 1] = jnp.maximum(*pair), jnp.minimum(*pair)
    total = z - largest + below[0]
    best = total / 2
    for count, x in enumerate(below[1:], 2):
        total = total + x
        best = jnp.maximum(best, total / (count + 1))
    y = largest + best
    return Found(y, first, _moved(a, largest, y))


def _search_where(wanted: Array, a: Array, z: Array, largest: Array, start: Array) -> tuple[Array, Array]:
    """`_search` of the wanted rows, all others as they start; of few rows at the price of few."""
    shape, few = start.shape, -(-start.size // 16)
    a, *rest = a.reshape(-1, a.shape[-1]), z.ravel(), largest.ravel(), start.ravel()
    found = rest[2], jnp.square(rest[2] - rest[1])

    def some() -> tuple[Array, Array]:
        (rows,) = jnp.nonzero(wanted.ravel(), size=few, fill_value=start.size)
        parts = _search(*(x.at[rows].get(mode="clip") for x in (a, *rest)))
        y, moved = (x.at[rows].set(part, mode="drop") for x, part in zip(found, parts, strict=True))
        return y, moved

    count = jnp.sum(wanted)
    case = (count > 0).astype(jnp.int32) + (count > few)
    y, moved = jax.lax.switch(case, (lambda: found, some, lambda: _search(a, *rest)))
    return y.reshape(shape), moved.reshape(shape)


def _search(a: Array, z: Array, largest: Array, y: Array) -> tuple[Array, Array]:
    """Output and squared displacement, in as many passes as the longest search takes.

    Starting from the entries above a lower bound of the output, each pass takes the output for
    the entries still above the last one. These become fewer until they stay, at most n times
    and in practice two or three (Michelot, 1986).
    """

    def above(y: Array) -> Array:
        return a > y[..., None]

    def count(y: Array) -> Array:
        return jnp.sum(above(y), -1, dtype=a.dtype)

    def search(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        y, entries, _ = carry
        total = jnp.sum(jnp.where(above(y), a - largest[..., None], 0), -1)
        y = largest + ((z - largest) + total) / (jnp.maximum(entries, 1) + 1)
        left = count(y)
        return y, left, jnp.any(left < entries)

    first = search((y, count(y), jnp.array(True)))
    y, *_ = jax.lax.while_loop(lambda carry: carry[2], search, first)
    return y, _moved(a, largest, y)


def _moved(a: Array, largest: Array, y: Array) -> Array:
    lowered = jnp.sum(jnp.square(jnp.maximum(a - y[..., None], 0)), -1)
    return jnp.where(y > largest, jnp.square(y - largest), lowered)


def _first(flags: Array) -> Array:
    """The place of the first true entry of each row."""
    return jnp.min(jnp.where(flags, _places(flags), flags.shape[-1]), -1)


def _places(a: Array) -> Array:
    return jax.lax.broadcasted_iota(jnp.int32, a.shape, a.ndim - 1)


Find = Callable[[Array, Array], Found]


def displace_reference(a: Array, z: Array, *, find: Find = find_by_sort) -> tuple[Array, Array, Array]:
    a, z = arguments.widen(a, z)
    y, first, moved = find(a, z)
    distance = y[..., None] - a
    displacement = jnp.where(_places(a) == first[..., None], distance, jnp.minimum(distance, 0))
    return displacement, y, moved


displace_max_p = define("pjax_displace_max", displace_reference)
"""(a, z) -> the displacement of `a`, the new maximum, the squared displacement (...)."""


def reference(a: Array, z: Array, *, find: Find = find_by_sort) -> tuple[Array]:
    wide, z = arguments.widen(a, z)
    y, first, _ = find(wide, z)
    y = y[..., None]
    return (jnp.where(_places(a) == first[..., None], y, jnp.minimum(wide, y)).astype(a.dtype),)


project_max_p = define("pjax_project_max", reference)


def project_max(a: Float[Array, " n"], z: Float[Array, ""]) -> Float[Array, " n"]:
    r"""The input of the nearest point of $\{(a, z) : z = \max_i a_i\}$:

    $$\arg\min_{a'} |a' - a|^2 + (\max_i a'_i - z)^2.$$

    **Arguments:**

    - `a`: a vector of length n, at least 1.
    - `z`: the queried output, a scalar.

    It takes one query; use `jax.vmap` for a batch.

    **Returns:** `a` with its largest entries lowered to a common value, or with its largest
    entry raised. It is unique except for ties where the maximum has to grow: then the first one is raised.

    **Errors:** `ArgumentError` for shapes or dtypes other than these.

    **Cost:** one sort and one cumulative sum.
    """
    a, z = arguments.vector_and_number(a, z)
    (moved,) = project_max_p.bind(a, z)
    return moved
