"""Choices by order as numbers, one-hot or a mask of the k largest, and the projections onto their graphs."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from ..errors import ArgumentError
from . import _arguments as arguments
from ._definition import define

MOST_SETS = 256
"""The most sets of k entries that `project_top_k_mask` compares one by one."""


def _mask(x: Array, k: int) -> Array:
    """1 for the k largest along the last axis; of equal entries the first ones."""
    order = jnp.argsort(-x, axis=-1, stable=True)
    rank = jnp.argsort(order, axis=-1)
    return (rank < k).astype(x.dtype)


def _one_hot_reference(x: Array) -> tuple[Array]:
    places = lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
    return ((places == jnp.argmax(x, -1, keepdims=True)).astype(x.dtype),)


def _top_k_reference(x: Array, *, k: int) -> tuple[Array]:
    return (_mask(x, k),)


one_hot_argmax_p = define("pjax_one_hot_argmax", _one_hot_reference, differentiable=True)
top_k_mask_p = define("pjax_top_k_mask", _top_k_reference, differentiable=True)


def one_hot_argmax(x: Float[Array, "... n"]) -> Float[Array, "... n"]:
    """Gives 1 for the largest entry along the last axis and 0 for the others; the first of ties wins.

    This is a hard choice, such as that of an expert or a code, and its derivative is zero. `pjp.displacement`
    reaches the scores `x`, and solvers project onto the graph of the choice.

    **Arguments:** `x`, of any shape with at least one axis, which is not empty.

    **Returns:** an array like `x`.

    **Errors:** `ArgumentError` for shapes or dtypes other than these.
    """
    (x,) = arguments.floating(x=x)
    arguments.min_rank(1, x=x)
    arguments.not_empty(x=x)
    (result,) = one_hot_argmax_p.bind(x)
    return result


def top_k_mask(x: Float[Array, "... n"], k: int) -> Float[Array, "... n"]:
    """Gives 1 for the k largest entries along the last axis and 0 for the others; the first of ties win.

    This is a hard choice, such as that of several experts, and its derivative is zero. `pjp.displacement`
    reaches the scores `x`, and solvers project onto the graph of the choice.

    **Arguments:**

    - `x`: any shape with at least one axis, which is not empty.
    - `k`: from 1 to the size of the last axis; static.

    **Returns:** an array like `x`.

    **Errors:** `ArgumentError` for shapes, dtypes or numbers other than these.
    """
    (x,) = arguments.floating(x=x)
    arguments.min_rank(1, x=x)
    arguments.not_empty(x=x)
    (result,) = top_k_mask_p.bind(x, k=_number(k, x.shape[-1]))
    return result


def _number(k: int, size: int) -> int:
    if isinstance(k, bool) or not hasattr(k, "__index__") or not 1 <= k <= size:
        raise ArgumentError(
            f"k: expected an integer from 1 to {size}, the size of the last axis, given {k!r}"
        )
    return int(k)


def _candidates(x: Array, z: Array, k: int) -> Array:
    """Sets of k entries as masks (..., sets, n), among them the best one or one that is good.

    The best entry for k = 1, else all sets if they are few. Else for a threshold t at each entry and between
    neighbours, up to `MOST_SETS`, the set that is best where everything in it has to be at least t and
    everything else at most t: an entry inside costs max(t - x, 0)^2 + 1 - 2 z, outside max(x - t, 0)^2, and
    the k with the least difference win.
    """
    n = x.shape[-1]
    if k == 1:
        return _cheapest_entry(x, z)
    if math.comb(n, k) <= MOST_SETS:
        sets = np.zeros((math.comb(n, k), n), bool)
        for row, chosen in zip(sets, itertools.combinations(range(n), k), strict=True):
            row[list(chosen)] = True
        return jnp.asarray(sets)
    ordered = jnp.sort(x, axis=-1)
    between = jnp.concatenate([ordered, (ordered[..., 1:] + ordered[..., :-1]) / 2], -1)
    if between.shape[-1] > MOST_SETS:
        between = between[..., np.linspace(0, between.shape[-1] - 1, MOST_SETS).astype(int)]
    distance = x[..., None, :] - between[..., None]
    gain = distance * jnp.abs(distance) + 2 * z[..., None, :]
    return _mask(gain, k) > 0


def _cheapest_entry(x: Array, z: Array) -> Array:
    """The entry that the nearest one-hot point makes the largest, as a set (..., 1, n).

    Measured downwards from the largest entry, let d be all entries in ascending order with the sums s_m of
    the first m. To make one at D the largest, it and the m that are above come to e = (D + s_m) / (m + 1),
    where the m are those with d_m < e, or (m + 1) d_m - s_m < D: the left side grows with m.
    """
    n, places = x.shape[-1], lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
    depth = jnp.max(x, -1, keepdims=True) - x
    order = jnp.argsort(depth, axis=-1)
    d = jnp.take_along_axis(depth, order, -1)
    zero = jnp.zeros_like(d[..., :1])
    sums, squares = (jnp.concatenate([zero, jnp.cumsum(y, -1)], -1) for y in (d, d * d))
    steps = jnp.arange(2, n + 2, dtype=x.dtype) * d - sums[..., 1:]
    merged = jnp.argsort(jnp.concatenate([d, steps], -1), axis=-1, stable=True)
    m = jnp.argsort(merged, axis=-1)[..., :n] - places  # how many steps are before an entry
    total, square = (jnp.take_along_axis(y, m, -1) for y in (sums, squares))
    m = m.astype(x.dtype)
    e = (d + total) / (m + 1)
    lowered = jnp.maximum(m * e * e - 2 * e * total + square, 0)
    cost = jnp.square(d - e) + lowered - 2 * jnp.take_along_axis(z, order, -1)
    best = jnp.take_along_axis(order, jnp.argmin(cost, -1, keepdims=True), -1)
    return (places == best)[..., None, :]


def _project(x: Array, z: Array, k: int) -> tuple[Array, Array]:
    """The nearest input, and the mask of the point, which its ties leave open."""
    dtype = x.dtype
    x, z = jnp.broadcast_arrays(*arguments.widen(x, z))
    if k == x.shape[-1]:
        return arguments.missing_where(x, z).astype(dtype), jnp.ones_like(x, dtype)
    row = x[..., None, :]
    inside = jnp.zeros_like(row, bool) | _candidates(x, z, k)
    threshold = _threshold(x, inside)
    moved = jnp.where(inside, jnp.maximum(row, threshold), jnp.minimum(row, threshold))
    cost = jnp.sum(jnp.square(moved - row) + jnp.where(inside, 1 - 2 * z[..., None, :], 0), -1)
    best = jnp.argmin(cost, -1)[..., None, None]
    chosen, mask = (jnp.take_along_axis(y, best, -2)[..., 0, :] for y in (moved, inside))
    chosen = jnp.where(jnp.isfinite(chosen), chosen, x)  # sums at the limits of the dtype
    return arguments.missing_where(chosen, x, z).astype(dtype), mask.astype(dtype)


def _threshold(x: Array, inside: Array) -> Array:
    """The threshold t of each set: all inside are raised to it, all others lowered, at the least cost.

    At t the rises sum(max(t - x, 0)) of those inside equal the falls sum(max(x - t, 0)) of the others. With
    the entries in descending order and m of them above t both are linear in t; the difference, which grows
    with t, is first found at the entries.
    """
    order = jnp.argsort(-x, axis=-1)
    ordered = jnp.take_along_axis(x, order, -1)[..., None, :]
    belongs = jnp.take_along_axis(inside, order[..., None, :], -1)
    axis = belongs.ndim - 1
    ones = belongs.astype(x.dtype)
    zeros = jnp.zeros_like(ones[..., :1])

    def above(y: Array) -> Array:  # of the first m entries, m from 0 to n
        return jnp.concatenate([zeros, lax.cumsum(y, axis)], -1)

    def below(y: Array) -> Array:  # of the others
        return jnp.concatenate([lax.cumsum(y, axis, reverse=True), zeros], -1)

    count = below(ones) + above(1 - ones)
    total = below(ones * ordered) + above((1 - ones) * ordered)
    rises = count[..., 1:] * ordered - total[..., 1:] > 0
    m = jnp.sum(rises, -1, keepdims=True)
    count, total = (jnp.take_along_axis(y, m, -1) for y in (count, total))
    # A set that has the largest entries already: nothing moves at its smallest entry.
    stays = jnp.min(jnp.where(belongs, ordered, jnp.inf), -1, keepdims=True)
    return jnp.where(count > 0, total / jnp.maximum(count, 1), stays)


def _project_one_hot_reference(x: Array, z: Array, *, output: bool = False) -> tuple[Array, ...]:
    moved, mask = _project(x, z, 1)
    return (moved, mask) if output else (moved,)


def _project_top_k_reference(x: Array, z: Array, *, k: int, output: bool = False) -> tuple[Array, ...]:
    moved, mask = _project(x, z, k)
    return (moved, mask) if output else (moved,)


project_one_hot_argmax_p = define("pjax_project_one_hot_argmax", _project_one_hot_reference)
project_top_k_mask_p = define("pjax_project_top_k_mask", _project_top_k_reference)


def project_one_hot_argmax(x: Float[Array, " n"], z: Float[Array, " n"]) -> Float[Array, " n"]:
    r"""The input of the nearest point of the closed graph of `one_hot_argmax`:

    $$\arg\min_{x'} \min_j\ |x' - x|^2 + |e_j - z|^2 \quad\text{with } x'_j = \max_i x'_i.$$

    To make entry j the largest, it is raised and those above it are lowered to a common value; the entry
    with the least sum of both distances wins.

    **Arguments:**

    - `x`: a vector of length n, at least 1.
    - `z`: the queried output, of the same length; it need not be one-hot.

    It takes one query; use `jax.vmap` for a batch.

    **Returns:** the new `x`. It is unique except where two entries cost the same.

    **Errors:** `ArgumentError` for shapes or dtypes other than these.

    **Cost:** it sorts the entries.
    """
    x, z = _checked(x, z)
    (moved,) = project_one_hot_argmax_p.bind(x, z)
    return moved


def project_top_k_mask(x: Float[Array, " n"], z: Float[Array, " n"], k: int) -> Float[Array, " n"]:
    r"""The input of the nearest point of the closed graph of `top_k_mask`:

    $$\arg\min_{x'} \min_{|S| = k}\ |x' - x|^2 + |1_S - z|^2 \quad\text{with } \min_{i \in S} x'_i \ge
    \max_{i \notin S} x'_i.$$

    For a set S its entries are raised, and the others lowered, to a common threshold.

    **Arguments:**

    - `x`: a vector of length n, at least 1.
    - `z`: the queried output, of the same length; it need not be a mask.
    - `k`: from 1 to n; static.

    It takes one query; use `jax.vmap` for a batch.

    **Returns:** the new `x`. It is exact if k is 1, or if there are no more than 256 sets of k entries,
    because all are compared. Otherwise it is the best of up to 256 sets, each the best one for a threshold at
    an entry or half-way between neighbours; it is never farther than the point with the mask that `x` has.

    **Errors:** `ArgumentError` for shapes, dtypes or numbers other than these.

    **Cost:** time and memory n times the number of sets.
    """
    x, z = _checked(x, z)
    (moved,) = project_top_k_mask_p.bind(x, z, k=_number(k, x.shape[-1]))
    return moved


def _checked(x: jax.Array, z: jax.Array) -> tuple[Array, Array]:
    x, z = arguments.floating(x=x, z=z)
    arguments.rank(1, x=x, z=z)
    arguments.same_shape(x=x, z=z)
    arguments.not_empty(x=x)
    return x, z
