"""Loops over blocks that stay in a CPU's cache.

XLA's CPU backend gives each result of a loop's body a pass of its own, which computes again what it shares
with others, and updates what the loop carries in place only if nothing reads it afterwards. So a block is
copied out before its place is overwritten, and what several passes need is carried from one iteration to the
next.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from pjax_prim.primitives._arguments import compute_dtype
from pjax_prim.primitives.linear import block_count
from pjax_prim.primitives.reflect_dot import displacement_of_norms, quarter_norm

BLOCK = 2**15
"""Copies of either operand in a block: with its means it takes a quarter of a second-level cache of 2 MiB."""


def elementwise(
    function: Callable[..., tuple[Array, ...]], block_size: int
) -> Callable[..., tuple[Array, ...]]:
    """An elementwise function of arrays, block after block; its results take the places of the first ones.

    A loop also stores its results, where barriers do not (`KEEPS_BARRIERS`).
    """

    def apply(*arrays: Array, **static: Any) -> tuple[Array, ...]:
        shape = jnp.broadcast_shapes(*(x.shape for x in arrays))
        size = math.prod(shape)
        if size < 2 * block_size:
            return function(*arrays, **static)
        results = jax.eval_shape(partial(function, **static), *arrays)
        # A rest is a second program, so blocks are of one size where they can be.
        equal = size // block_count(size, size, block_size)
        length = equal if 4 * equal >= block_size else block_size
        dtypes = [x.dtype for x in (*results, *arrays[len(results) :])]
        flat = tuple(
            jnp.broadcast_to(x, shape).reshape(-1).astype(dtype)
            for x, dtype in zip(arrays, dtypes, strict=True)
        )

        def block(start: Any, length: int, held: tuple[Array, ...]) -> tuple[Array, ...]:
            parts = (lax.dynamic_slice_in_dim(x, start, length) for x in held)
            new = function(*parts, **static)
            placed = (
                lax.dynamic_update_slice_in_dim(*pair, start, 0) for pair in zip(held, new, strict=False)
            )
            return (*placed, *held[len(new) :])

        flat = lax.fori_loop(0, size // length, lambda i, held: block(i * length, length, held), flat)
        if rest := size % length:
            flat = block(size - rest, rest, flat)
        return tuple(x.reshape(shape) for x in flat[: len(results)])

    return apply


def rows(function: Callable[..., tuple[Array, ...]], block_size: int) -> Callable[..., tuple[Array, ...]]:
    """A function of vectors, the last axes of arrays of one shape, a block of vectors after the other."""

    def apply(*arrays: Array, **static: Any) -> tuple[Array, ...]:
        shape = jnp.broadcast_shapes(*(x.shape for x in arrays))
        count, n = math.prod(shape[:-1]), shape[-1]
        blocks = block_count(count, count * n, block_size)
        if blocks == 1:
            return function(*arrays, **static)
        parts = tuple(jnp.broadcast_to(x, shape).reshape(blocks, count // blocks, n) for x in arrays)
        found = lax.map(lambda part: function(*part, **static), parts)
        return tuple(x.reshape(shape) for x in found)

    return apply


def divides(a: Any) -> bool:
    """Whether copies (..., P, Q, K) are many, and divide into rows of blocks that are not small."""
    *_, q, k = a.shape
    return math.prod(a.shape) >= 2**20 and q * k // block_count(q, q * k, BLOCK) >= BLOCK // 8


class _Blocks:
    """Copies (P, Q, K) in blocks of some rows of one P."""

    def __init__(self, p: int, q: int, k: int):
        parts = block_count(q, q * k, BLOCK)
        self.count, self.rows, self.k, self._parts = p * parts, q // parts, k, parts
        self.is_first = jnp.arange(k) == 0

    def place(self, index: Array) -> tuple[Array, Array]:
        index = jnp.minimum(index, self.count - 1).astype(jnp.int32)
        return index // self._parts, index % self._parts * self.rows

    def copies(self, index: Array, *arrays: Array) -> list[Array]:
        """A block of each, (rows, K)."""
        i, j = self.place(index)
        start = i, j, jnp.zeros_like(i)
        return [lax.dynamic_slice(x, start, (1, self.rows, self.k))[0] for x in arrays]

    def means(self, index: Array, mean_a: Array, mean_b: Array) -> tuple[Array, Array]:
        """The part of means (P, K) and (Q, K) that belongs to a block."""
        i, j = self.place(index)
        part_a = lax.dynamic_slice_in_dim(mean_a, i, 1)
        return part_a, lax.dynamic_slice_in_dim(mean_b, j, self.rows)

    def scalars(self, index: Array, *arrays: Array) -> list[Array]:
        """A block of each of (P, Q), as (rows,)."""
        return [lax.dynamic_slice(x, self.place(index), (1, self.rows))[0] for x in arrays]

    def put(self, index: Array, whole: Array, new: Array) -> Array:
        """A block of copies or of scalars in its place."""
        start = *self.place(index), *[jnp.zeros((), jnp.int32)] * (whole.ndim - 2)
        return lax.dynamic_update_slice(whole, new[None].astype(whole.dtype), start)

    def add(
        self, index: Array, sum_a: Array, sum_b: Array, new_a: Array, new_b: Array
    ) -> tuple[Array, Array]:
        """Sums (P, K) and (Q, K) over copies, with those of a block: (1, K) and (rows, K)."""
        i, j = self.place(index)
        old_a, old_b = self.means(index, sum_a, sum_b)
        sum_a = lax.dynamic_update_slice_in_dim(sum_a, old_a + new_a, i, 0)
        return sum_a, lax.dynamic_update_slice_in_dim(sum_b, old_b + new_b, j, 0)


def _norms(u: Array, v: Array) -> tuple[Array, Array]:
    return quarter_norm(u + v), quarter_norm(u - v)


def _weighted_sum(weights: Array, x: Array) -> Array:
    """The sum of weighted rows, (1, K), as a product, which is faster than a sum along columns."""
    return jnp.matmul(weights[None], x, precision=lax.Precision.HIGHEST)


def _add_reflected(
    blocks: _Blocks, index: Array, sum_a: Array, sum_b: Array, x: Array, y: Array, c: Array, e: Array
) -> tuple[Array, Array]:
    """Sums over reflected copies, without their steps, with those of a block x, y."""
    keep, cross = 1 + 2 * c, 2 * e
    new_a = _weighted_sum(keep, x) + _weighted_sum(cross, y)
    return blocks.add(index, sum_a, sum_b, new_a, keep[:, None] * y + cross[:, None] * x)


def _reflected_means(
    sum_a: Array, sum_b: Array, step_a: Array, step_b: Array, *dtypes: Any
) -> tuple[Array, Array]:
    """The means of `_add_reflected`'s copies with their steps."""
    p, q = step_a.shape
    return (
        (sum_a / q).at[:, 0].add(2 * jnp.mean(step_a, 1)).astype(dtypes[0]),
        (sum_b / p).at[:, 0].add(2 * jnp.mean(step_b, 0)).astype(dtypes[1]),
    )


def _for_each(
    function: Callable[..., tuple[Array, ...]], axes: Sequence[int], *arrays: Array
) -> tuple[Array, ...]:
    """`function` of arrays with so many last axes, which share their leading ones."""
    batch = jnp.broadcast_shapes(*(x.shape[: x.ndim - n] for x, n in zip(arrays, axes, strict=True)))
    count = math.prod(batch)
    flat = [
        jnp.broadcast_to(x, (*batch, *x.shape[x.ndim - n :])).reshape(count, *x.shape[x.ndim - n :])
        for x, n in zip(arrays, axes, strict=True)
    ]
    results = (
        tuple(x[None] for x in function(*(x[0] for x in flat)))
        if count == 1
        else lax.map(lambda one: function(*one), flat)
    )
    return tuple(x.reshape(*batch, *x.shape[1:]) for x in results)


def displace_dot(a: Array, b: Array, z: Array) -> tuple[Array, ...]:
    """What `pjax_prim.primitives.displace_dot_p` computes, with each copy read once."""
    wide = compute_dtype(jnp.result_type(a, b, z))

    def one(a: Array, b: Array, z: Array) -> tuple[Array, ...]:
        p, q, k = a.shape
        blocks = _Blocks(p, q, k)

        def load(index: Array) -> list[Array]:
            return [x.astype(wide) for x in blocks.copies(index, a, b)]

        def block(index: Array, held: tuple[Array, ...]) -> tuple[Array, ...]:
            s, d, *outputs, sum_a, sum_b = held
            (target,) = blocks.scalars(index, z)
            solved = displacement_of_norms(s, d, target)
            x, y = load(index)
            sums = _add_reflected(blocks, index, sum_a, sum_b, x, y, *solved[:2])
            outputs = [blocks.put(index, *pair) for pair in zip(outputs, solved, strict=True)]
            return (*_norms(*load(index + 1)), *outputs, *sums)

        z = z.astype(wide)
        start = jnp.zeros((), jnp.int32)
        sums = jnp.zeros_like(a[:, 0], wide), jnp.zeros_like(b[0], wide)
        held = (*_norms(*load(start)), *[jnp.zeros_like(z)] * 5, *sums)
        _, _, *outputs, sum_a, sum_b = lax.fori_loop(0, blocks.count, block, held)
        return (*outputs, *_reflected_means(sum_a, sum_b, *outputs[2:4], a.dtype, b.dtype))

    return _for_each(one, (3, 3, 2), a, b, z)


def leave_dot(a: Array, b: Array, mean_a: Array, mean_b: Array, *scalars: Array) -> tuple[Array, ...]:
    """What `pjax_prim.primitives.leave_dot_p` computes, with each copy read once and written once."""
    wide = compute_dtype(jnp.result_type(a, b, mean_a, mean_b))

    def one(a: Array, b: Array, mean_a: Array, mean_b: Array, *scalars: Array) -> tuple[Array, ...]:
        p, q, k = a.shape
        blocks = _Blocks(p, q, k)
        *solved, z, relaxation = scalars
        rate = 2 * relaxation.astype(wide)

        def update(index: Array, a: Array, b: Array) -> tuple[Array, ...]:
            """A block of new copies, behind what overwrites others, with norms of them and of their moves."""
            m, n = blocks.means(index, mean_a, mean_b)
            c, e, step_a, step_b = (v[:, None] for v in blocks.scalars(index, *solved))
            x, y = (v.astype(wide) for v in blocks.copies(index, a, b))
            move_a = (m - x) - (c * x + e * y + jnp.where(blocks.is_first, step_a, 0))
            move_b = (n - y) - (c * y + e * x + jnp.where(blocks.is_first, step_b, 0))
            x = (x + rate * move_a).astype(a.dtype).astype(wide)
            y = (y + rate * move_b).astype(b.dtype).astype(wide)
            # Two sums: one of both would not be a vectorised reduction.
            return x, y, *_norms(x, y), jnp.sum(jnp.square(move_a), -1), jnp.sum(jnp.square(move_b), -1)

        def block(index: Array, held: tuple[Array, ...]) -> tuple[Array, ...]:
            a, b, x, y, s, d, moved_a, moved_b, *outputs, sum_a, sum_b = held
            a, b = blocks.put(index, a, x), blocks.put(index, b, y)
            (target,) = blocks.scalars(index, z)
            found = (moved_a, moved_b, *displacement_of_norms(s, d, target))
            outputs = [blocks.put(index, *pair) for pair in zip(outputs, found, strict=True)]
            sums = _add_reflected(blocks, index, sum_a, sum_b, x, y, *found[2:4])
            return (a, b, *update(index + 1, a, b), *outputs, *sums)

        mean_a, mean_b, z = mean_a[:, 0].astype(wide), mean_b[0].astype(wide), z.astype(wide)
        sums = jnp.zeros_like(mean_a), jnp.zeros_like(mean_b)
        start = jnp.zeros((), jnp.int32)
        held = (a, b, *update(start, a, b), *[jnp.zeros_like(z)] * 7, *sums)
        a, b, *_, moved_a, moved_b, c, e, step_a, step_b, output, sum_a, sum_b = lax.fori_loop(
            0, blocks.count, block, held
        )
        means = _reflected_means(sum_a, sum_b, step_a, step_b, a.dtype, b.dtype)
        return (a, b, moved_a + moved_b, c, e, step_a, step_b, output, *means)

    return _for_each(one, (3, 3, 3, 3, *[2] * 6), a, b, mean_a, mean_b, *scalars)


def reflect_dot(
    a: Array, b: Array, mean_a: Array, mean_b: Array, z: Array, relaxation: Array
) -> tuple[Array, ...]:
    """What `pjax_prim.primitives.reflect_dot_p` computes, with each copy read once and written once."""
    wide = compute_dtype(jnp.result_type(a, b, mean_a, mean_b, z))

    def one(
        a: Array, b: Array, mean_a: Array, mean_b: Array, z: Array, relaxation: Array
    ) -> tuple[Array, ...]:
        p, q, k = a.shape
        rate = 2 * relaxation.astype(wide)
        blocks = _Blocks(p, q, k)

        def load(index: Array, a: Array, b: Array) -> tuple[Array, ...]:
            """A block of copies, behind what overwrites them, and the norms of their reflections."""
            m, n = blocks.means(index, mean_a, mean_b)
            x, y = (v.astype(wide) for v in blocks.copies(index, a, b))
            return x, y, *_norms(2 * m - x, 2 * n - y)

        def block(index: Array, held: tuple[Array, ...]) -> tuple[Array, ...]:
            a, b, x, y, s, d, output, squared_a, squared_b, sum_a, sum_b = held
            m, n = blocks.means(index, mean_a, mean_b)
            (target,) = blocks.scalars(index, z)
            *coefficients, solved = displacement_of_norms(s, d, target)
            c, e, step_a, step_b = (v[:, None] for v in coefficients)
            u, v = 2 * m - x, 2 * n - y
            move_a = (u - m) + c * u + e * v + jnp.where(blocks.is_first, step_a, 0)
            move_b = (v - n) + c * v + e * u + jnp.where(blocks.is_first, step_b, 0)
            new_a, new_b = x + rate * move_a, y + rate * move_b
            a, b = blocks.put(index, a, new_a), blocks.put(index, b, new_b)
            return (
                a, b, *load(index + 1, a, b), blocks.put(index, output, solved),
                # Two sums: one of both would not be a vectorised reduction.
                blocks.put(index, squared_a, jnp.sum(jnp.square(move_a), -1)),
                blocks.put(index, squared_b, jnp.sum(jnp.square(move_b), -1)),
                *blocks.add(index, sum_a, sum_b, jnp.sum(new_a, 0)[None], new_b),
            )  # fmt: skip

        z, mean_a, mean_b = z.astype(wide), mean_a[:, 0].astype(wide), mean_b[0].astype(wide)
        none = jnp.zeros_like(z)
        sums = jnp.zeros_like(mean_a), jnp.zeros_like(mean_b)
        held = (a, b, *load(jnp.zeros((), jnp.int32), a, b), none, none, none, *sums)
        a, b, *_, output, squared_a, squared_b, sum_a, sum_b = lax.fori_loop(0, blocks.count, block, held)
        means = (sum_a / q).astype(a.dtype), (sum_b / p).astype(b.dtype)
        return a, b, output, squared_a + squared_b, *means

    return _for_each(one, (3, 3, 3, 3, 2, 2), a, b, mean_a, mean_b, z, relaxation)
