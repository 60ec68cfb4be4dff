"""The dot product's parts of a Douglas-Rachford step on a GPU: copies are read once and written at most once.

A program holds some rows of `b` and takes them with some rows of `a`, one after another. Everything stays in
registers, and the few scalar equations of a tile are solved by all threads alike. So a program is one warp,
unless a row is long: others hide its latency. Sums over copies are those of a program; what is left is a sum
over them. Sizes are measured (on an H200).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from pjax_prim.primitives.reflect_dot import displacement_of_norms

from .arrays import Batch, for_rows, varying
from .pallas import pl, triton

TILE = 2**10
"""Copies of either operand in a tile."""

ROWS, PROGRAMS = 16, 2**11
"""A program takes up to so many rows of `a`: fewer, if there were fewer programs."""


def fits(a: Any) -> bool:
    """Whether the sums of a program fit its registers, and the arrays have indices of 32 bits."""
    return a.shape[-1] <= 8 * TILE and math.prod(a.shape) < 2**31


class Grid(Batch):
    """Programs for copies (..., P, Q, K); `scalars` are (..., P, Q), `others` means."""

    def __init__(self, a: Array, b: Array, scalars: Array, *others: Array):
        super().__init__(a, b, scalars, *others)
        self.lanes = pl.next_power_of_2(self.k)
        self.rows = min(pl.next_power_of_2(self.q), max(1, TILE // self.lanes))
        self.blocks = pl.cdiv(self.q, self.rows)
        self.height = ROWS
        while self.height > 4 and self.count * self.blocks * pl.cdiv(self.p, self.height) < PROGRAMS:
            self.height //= 2
        self.chunks = pl.cdiv(self.p, self.height)
        copies = self.count, self.p, self.q, self.k
        self.shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "a": (copies, a.dtype),
            "b": (copies, b.dtype),
            "row": (copies[:3], jnp.float32),
            "sum_a": ((self.count, self.blocks, self.p, self.k), jnp.float32),
            "sum_b": ((self.count, self.chunks, self.q, self.k), jnp.float32),
        }

    def given(self, a: Array, b: Array, *scalars: Array) -> list[Array]:
        copies = [self.flat(x, self.p, self.q, self.k) for x in (a, b)]
        return [*copies, *(self.flat(x, self.p, self.q) for x in scalars)]

    def means(self, mean_a: Array, mean_b: Array) -> list[Array]:
        return [self.flat(mean_a, self.p, self.k), self.flat(mean_b, self.q, self.k)]

    def call(
        self,
        kernel: Callable[..., None],
        name: str,
        operands: Sequence[Array],
        results: Sequence[str],
        interpret: bool,
        in_place: bool,
    ) -> list[Array]:
        """Results of the original batch; the sums over copies, which are last, as means."""
        with jax.enable_x64(False):
            found: list[Array] = pl.pallas_call(
                partial(kernel, self),
                grid=(self.blocks, self.chunks, self.count),
                out_shape=varying([self.shapes[x] for x in (*results, "sum_a", "sum_b")], *operands),
                input_output_aliases={0: 0, 1: 1} if in_place else {},
                compiler_params=triton.CompilerParams(num_warps=max(1, self.lanes // TILE), num_stages=1),
                interpret=interpret,
                name=name,
            )(*operands)
        *found, sums_a, sums_b = found
        means = jnp.sum(sums_a, 1) / self.q, jnp.sum(sums_b, 1) / self.p
        dtypes = self.shapes["a"][1], self.shapes["b"][1]
        found += [mean.astype(dtype) for mean, dtype in zip(means, dtypes, strict=True)]
        return [x.reshape(*self.batch, *x.shape[1:]) for x in found]


class _Tile:
    """A program's rows of `b`, and what belongs to them."""

    def __init__(self, grid: Grid):
        self.grid = grid
        self.block, self.chunk, self.one = (pl.program_id(axis) for axis in range(3))
        self.row = self.block * grid.rows + lax.broadcasted_iota(jnp.int32, (grid.rows,), 0)
        self.lane = lax.broadcasted_iota(jnp.int32, (grid.lanes,), 0)
        self.row_inside, self.lane_inside = self.row < grid.q, self.lane < grid.k
        self.inside = self.row_inside[:, None] & self.lane_inside[None]

    def for_each(
        self, sum_a_ref: Any, sum_b_ref: Any, function: Callable[[Array], tuple[Array, Array]]
    ) -> None:
        """`function(i)` of each row of `a` of the program gives what is summed over copies."""

        def row(i: Array, sum_b: Array) -> Array:
            x, y = function(i)
            total = jnp.sum(jnp.where(self.inside, x, 0), 0)
            triton.store(sum_a_ref.at[self.one, self.block, i, self.lane], total, mask=self.lane_inside)
            return sum_b + y

        first = self.chunk * self.grid.height
        last = jnp.minimum(first + self.grid.height, self.grid.p)
        sum_b = lax.fori_loop(first, last, row, jnp.zeros(self.inside.shape, jnp.float32))
        place = sum_b_ref.at[self.one, self.chunk, self.row[:, None], self.lane[None]]
        triton.store(place, sum_b, mask=self.inside)

    def copies(self, i: Array, *refs: Any) -> list[Array]:
        return [_load(ref.at[self.one, i, self.row[:, None], self.lane[None]], self.inside) for ref in refs]

    def put_copies(self, i: Array, ref: Any, x: Array) -> Array:
        """Stores copies, and gives them as they are stored."""
        x = x.astype(ref.dtype)
        triton.store(ref.at[self.one, i, self.row[:, None], self.lane[None]], x, mask=self.inside)
        return x.astype(jnp.float32)

    def means(self, i: Array, mean_a_ref: Any, mean_b_ref: Any) -> tuple[Array, Array]:
        mean_a = _load(mean_a_ref.at[self.one, i, self.lane], self.lane_inside)
        return mean_a[None], _load(mean_b_ref.at[self.one, self.row[:, None], self.lane[None]], self.inside)

    def scalars(self, i: Array, *refs: Any) -> list[Array]:
        return [_load(ref.at[self.one, i, self.row], self.row_inside) for ref in refs]

    def put_scalars(self, i: Array, refs: Sequence[Any], values: Sequence[Array]) -> None:
        for ref, x in zip(refs, values, strict=True):
            triton.store(ref.at[self.one, i, self.row], x, mask=self.row_inside)

    def along_first(self, x: Array) -> Array:
        """A step along the first component of all copies."""
        return jnp.where((self.lane == 0)[None], x[:, None], 0)


def _load(ref: Any, mask: Array) -> Array:
    return triton.load(ref, mask=mask, other=0).astype(jnp.float32)


def displace_dot(a: Array, b: Array, z: Array, *, interpret: bool = False) -> tuple[Array, ...]:
    """What `pjax_prim.primitives.displace_dot_p` computes, in float32."""
    grid = Grid(a, b, z)
    operands = grid.given(a, b, z)
    return tuple(grid.call(_displace, "pjax_displace_dot", operands, ["row"] * 5, interpret, in_place=False))


def leave_dot(
    a: Array,
    b: Array,
    mean_a: Array,
    mean_b: Array,
    *scalars: Array,
    interpret: bool = False,
) -> tuple[Array, ...]:
    """What `pjax_prim.primitives.leave_dot_p` computes, in float32."""
    scalars = for_rows(*scalars)
    grid = Grid(a, b, scalars[0], mean_a, mean_b)
    operands = [*grid.given(a, b, *scalars), *grid.means(mean_a, mean_b)]
    results = ["a", "b", *["row"] * 6]
    return tuple(grid.call(_leave, "pjax_leave_dot", operands, results, interpret, in_place=True))


def reflect_dot(
    a: Array, b: Array, mean_a: Array, mean_b: Array, *scalars: Array, interpret: bool = False
) -> tuple[Array, ...]:
    """What `pjax_prim.primitives.reflect_dot_p` computes, in float32."""
    scalars = for_rows(*scalars)
    grid = Grid(a, b, scalars[0], mean_a, mean_b)
    operands = [*grid.given(a, b, *scalars), *grid.means(mean_a, mean_b)]
    results = ["a", "b", "row", "row"]
    return tuple(grid.call(_reflect, "pjax_reflect_dot", operands, results, interpret, in_place=True))


def _displaced(
    tile: _Tile, i: Array, a: Array, b: Array, z_ref: Any, refs: Sequence[Any]
) -> tuple[Array, Array]:
    """Stores the displacement of copies; what they give reflected."""
    (z,) = tile.scalars(i, z_ref)
    c, e, step_a, step_b, output = displacement_of_norms(*_norms(a, b), z)
    tile.put_scalars(i, refs, (c, e, step_a, step_b, output))
    keep, cross = (1 + 2 * c)[:, None], 2 * e[:, None]
    x = keep * a + cross * b + tile.along_first(2 * step_a)
    return x, keep * b + cross * a + tile.along_first(2 * step_b)


def _norms(u: Array, v: Array) -> tuple[Array, Array]:
    return 0.25 * jnp.sum(jnp.square(u + v), 1), 0.25 * jnp.sum(jnp.square(u - v), 1)


def _moved(a: Array, b: Array) -> Array:
    return jnp.sum(jnp.square(a) + jnp.square(b), 1)


def _displace(grid: Grid, a_ref: Any, b_ref: Any, z_ref: Any, *refs: Any) -> None:
    *solved_refs, sum_a_ref, sum_b_ref = refs
    tile = _Tile(grid)

    def row(i: Array) -> tuple[Array, Array]:
        a, b = tile.copies(i, a_ref, b_ref)
        return _displaced(tile, i, a, b, z_ref, solved_refs)

    tile.for_each(sum_a_ref, sum_b_ref, row)


def _leave(grid: Grid, a_ref: Any, b_ref: Any, *refs: Any) -> None:
    *given_refs, z_ref, relaxation_ref, mean_a_ref, mean_b_ref, new_a_ref, new_b_ref, squared_ref = refs[:11]
    *solved_refs, sum_a_ref, sum_b_ref = refs[11:]
    tile = _Tile(grid)

    def row(i: Array) -> tuple[Array, Array]:
        a, b = tile.copies(i, a_ref, b_ref)
        mean_a, mean_b = tile.means(i, mean_a_ref, mean_b_ref)
        c, e, step_a, step_b, relaxation = tile.scalars(i, *given_refs, relaxation_ref)
        c, e, rate = c[:, None], e[:, None], 2 * relaxation[:, None]
        move_a = (mean_a - a) - (c * a + e * b + tile.along_first(step_a))
        move_b = (mean_b - b) - (c * b + e * a + tile.along_first(step_b))
        tile.put_scalars(i, [squared_ref], [_moved(move_a, move_b)])
        new_a = tile.put_copies(i, new_a_ref, a + rate * move_a)
        new_b = tile.put_copies(i, new_b_ref, b + rate * move_b)
        return _displaced(tile, i, new_a, new_b, z_ref, solved_refs)

    tile.for_each(sum_a_ref, sum_b_ref, row)


def _reflect(grid: Grid, a_ref: Any, b_ref: Any, *refs: Any) -> None:
    z_ref, relaxation_ref, mean_a_ref, mean_b_ref, new_a_ref, new_b_ref = refs[:6]
    *scalar_refs, sum_a_ref, sum_b_ref = refs[6:]
    tile = _Tile(grid)

    def row(i: Array) -> tuple[Array, Array]:
        a, b = tile.copies(i, a_ref, b_ref)
        mean_a, mean_b = tile.means(i, mean_a_ref, mean_b_ref)
        z, relaxation = tile.scalars(i, z_ref, relaxation_ref)
        u, v = 2 * mean_a - a, 2 * mean_b - b
        c, e, step_a, step_b, output = displacement_of_norms(*_norms(u, v), z)
        c, e, rate = c[:, None], e[:, None], 2 * relaxation[:, None]
        move_a = (u - mean_a) + c * u + e * v + tile.along_first(step_a)
        move_b = (v - mean_b) + c * v + e * u + tile.along_first(step_b)
        tile.put_scalars(i, scalar_refs, [output, _moved(move_a, move_b)])
        new_a = tile.put_copies(i, new_a_ref, a + rate * move_a)
        return new_a, tile.put_copies(i, new_b_ref, b + rate * move_b)

    tile.for_each(sum_a_ref, sum_b_ref, row)
