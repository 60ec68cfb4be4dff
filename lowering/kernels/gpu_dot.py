"""The dot product's parts of a Douglas-Rachford step on a GPU: copies are read once and written at most once.

A program takes one block of rows of `b` with several rows of `a`, one after another, with all components in
registers, and writes the sums of what it saw: one row of sums of `a` for each block, one block of sums of `b`
for all of its rows of `a`.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array

from pjax_prim._compat import triton
from pjax_prim.primitives.reflect_dot import displacement_of_norms

from .arrays import varying

TILE = 2**12
"""Copies of either operand that a program holds at a time."""

MOST_ROWS, PROGRAMS = 16, 512
"""A program takes up to so many rows of `a`: fewer, if the programs would be fewer than these."""


def fits(a: Any) -> bool:
    """Whether a row of copies fits a program's registers, and the arrays have indices of 32 bits."""
    return a.shape[-1] <= 2 * TILE and math.prod(a.shape) < 2**31


class Grid:
    """Programs for copies (..., P, Q, K); `scalars` are (..., P, Q), `others` means."""

    def __init__(self, a: Array, b: Array, scalars: Array, *others: Array):
        arrays = (a, b, *others)
        self.batch = jnp.broadcast_shapes(*(x.shape[:-3] for x in arrays), scalars.shape[:-2])
        self.count = math.prod(self.batch)
        self.p, self.q, self.k = scalars.shape[-2], scalars.shape[-1], a.shape[-1]
        self.lanes = pl.next_power_of_2(self.k)
        self.rows = min(pl.next_power_of_2(self.q), max(1, TILE // self.lanes))
        self.blocks = pl.cdiv(self.q, self.rows)
        self.warps = 4 if self.lanes * self.rows <= TILE else 8
        self.height = MOST_ROWS
        while self.height > 4 and self.count * self.blocks * pl.cdiv(self.p, self.height) < PROGRAMS:
            self.height //= 2
        self.chunks = pl.cdiv(self.p, self.height)
        copies = self.count, self.p, self.q, self.k
        self.shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "a": (copies, a.dtype),
            "b": (copies, b.dtype),
            "row": ((self.count, self.p, self.q), jnp.float32),
            "sum_a": ((self.count, self.blocks, self.p, self.k), jnp.float32),
            "sum_b": ((self.count, self.chunks, self.q, self.k), jnp.float32),
        }

    def means(self, mean_a: Array, mean_b: Array) -> tuple[Array, Array]:
        return self.flat(mean_a[..., 0, :], 2), self.flat(mean_b[..., 0, :, :], 2)

    def flat(self, x: Array, last: int) -> Array:
        """With one batch axis before its `last` axes."""
        shape = x.shape[x.ndim - last :]
        return jnp.broadcast_to(x, (*self.batch, *shape)).reshape(self.count, *shape)

    def call(
        self, kernel: Any, name: str, operands: Any, results: Any, interpret: bool, in_place: bool
    ) -> list[Array]:
        with jax.enable_x64(False):
            found: list[Array] = pl.pallas_call(
                partial(kernel, self),
                grid=(self.blocks, self.chunks, self.count),
                out_shape=varying([self.shapes[x] for x in results], *operands),
                input_output_aliases={0: 0, 1: 1} if in_place else {},
                compiler_params=triton.CompilerParams(num_warps=self.warps, num_stages=1),
                interpret=interpret,
                name=name,
            )(*operands)
        return found

    def original(self, x: Array) -> Array:
        return x.reshape(*self.batch, *x.shape[1:])

    def averages(self, sums_a: Array, sums_b: Array, *dtypes: Any) -> tuple[Array, Array]:
        """The means of a over Q and of b over P from the programs' sums."""
        means = jnp.sum(sums_a, 1) / self.q, jnp.sum(sums_b, 1) / self.p
        return self.original(means[0].astype(dtypes[0])), self.original(means[1].astype(dtypes[1]))


class _Program:
    """What one program reads and writes."""

    def __init__(self, grid: Grid):
        self.grid = grid
        self.block, self.chunk, self.one = (pl.program_id(axis) for axis in range(3))
        self.row = self.block * grid.rows + lax.broadcasted_iota(jnp.int32, (grid.rows,), 0)
        self.lane = lax.broadcasted_iota(jnp.int32, (grid.lanes,), 0)
        self.row_inside, self.lane_inside = self.row < grid.q, self.lane < grid.k
        self.inside = self.row_inside[:, None] & self.lane_inside[None]
        self.is_first = (self.lane == 0)[None]

    def for_each(self, function: Any, carry: Any) -> Any:
        """`function(i, carry)` for each row of `a` of the program."""
        first = self.chunk * self.grid.height
        return lax.fori_loop(first, jnp.minimum(first + self.grid.height, self.grid.p), function, carry)

    def copies(self, i: Any, *refs: Any) -> list[Array]:
        return [_load(ref.at[self.one, i, self.row[:, None], self.lane[None]], self.inside) for ref in refs]

    def put_copies(self, i: Any, ref: Any, x: Array) -> None:
        _store(ref.at[self.one, i, self.row[:, None], self.lane[None]], x, self.inside)

    def mean_a(self, i: Any, ref: Any) -> Array:
        return _load(ref.at[self.one, i, self.lane], self.lane_inside)[None]

    def mean_b(self, ref: Any) -> Array:
        return _load(ref.at[self.one, self.row[:, None], self.lane[None]], self.inside)

    def scalars(self, i: Any, *refs: Any) -> list[Array]:
        return [_load(ref.at[self.one, i, self.row], self.row_inside) for ref in refs]

    def put_scalars(self, i: Any, ref: Any, x: Array) -> None:
        _store(ref.at[self.one, i, self.row], x, self.row_inside)

    def put_sum_a(self, i: Any, ref: Any, x: Array) -> None:
        total = jnp.sum(jnp.where(self.inside, x, 0), 0)
        _store(ref.at[self.one, self.block, i, self.lane], total, self.lane_inside)

    def put_sum_b(self, ref: Any, x: Array) -> None:
        _store(ref.at[self.one, self.chunk, self.row[:, None], self.lane[None]], x, self.inside)

    def zeros(self) -> Array:
        return jnp.zeros(self.inside.shape, jnp.float32)

    def along_first(self, x: Array) -> Array:
        return jnp.where(self.is_first, x[:, None], 0)


def _load(ref: Any, mask: Array) -> Array:
    return triton.load(ref, mask=mask, other=0).astype(jnp.float32)


def _store(ref: Any, x: Array, mask: Array) -> None:
    triton.store(ref, x.astype(ref.dtype), mask=mask)


def _norms(u: Array, v: Array) -> tuple[Array, Array]:
    return 0.25 * jnp.sum(jnp.square(u + v), 1), 0.25 * jnp.sum(jnp.square(u - v), 1)


def displace_dot(a: Array, b: Array, z: Array, *, interpret: bool = False) -> tuple[Array, ...]:
    """What `pjax_prim.primitives.displace_dot_p` computes, in float32."""
    grid = Grid(a, b, z)
    operands = grid.flat(a, 3), grid.flat(b, 3), grid.flat(z, 2)
    results = ("row",) * 5 + ("sum_a", "sum_b")
    *solved, sums_a, sums_b = grid.call(
        _displace, "pjax_displace_dot", operands, results, interpret, in_place=False
    )
    return (*map(grid.original, solved), *grid.averages(sums_a, sums_b, a.dtype, b.dtype))


def leave_dot(
    a: Array,
    b: Array,
    mean_a: Array,
    mean_b: Array,
    *solved: Array,
    relaxation: float,
    interpret: bool = False,
) -> tuple[Array, ...]:
    """What `pjax_prim.primitives.leave_dot_p` computes, in float32."""
    grid = Grid(a, b, solved[0], mean_a, mean_b)
    operands = (
        grid.flat(a, 3),
        grid.flat(b, 3),
        *grid.means(mean_a, mean_b),
        *(grid.flat(x, 2) for x in solved),
    )
    kernel = partial(_leave, rate=2 * relaxation)
    found = grid.call(kernel, "pjax_leave_dot", operands, ("a", "b", "row"), interpret, in_place=True)
    return tuple(map(grid.original, found))


def reflect_dot(
    a: Array, b: Array, mean_a: Array, mean_b: Array, z: Array, *, relaxation: float, interpret: bool = False
) -> tuple[Array, ...]:
    """What `pjax_prim.primitives.reflect_dot_p` computes, in float32."""
    grid = Grid(a, b, z, mean_a, mean_b)
    operands = grid.flat(a, 3), grid.flat(b, 3), *grid.means(mean_a, mean_b), grid.flat(z, 2)
    kernel = partial(_reflect, rate=2 * relaxation)
    results = "a", "b", "row", "row", "sum_a", "sum_b"
    *found, sums_a, sums_b = grid.call(
        kernel, "pjax_reflect_dot", operands, results, interpret, in_place=True
    )
    return (*map(grid.original, found), *grid.averages(sums_a, sums_b, a.dtype, b.dtype))


def _displace(grid: Grid, a_ref: Any, b_ref: Any, z_ref: Any, *refs: Any) -> None:
    *solved_refs, sum_a_ref, sum_b_ref = refs
    program = _Program(grid)

    def row(i: Any, sum_b: Array) -> Array:
        a, b = program.copies(i, a_ref, b_ref)
        (z,) = program.scalars(i, z_ref)
        solved = displacement_of_norms(*_norms(a, b), z)
        for ref, x in zip(solved_refs, solved, strict=True):
            program.put_scalars(i, ref, x)
        c, e, step_a, step_b, _ = solved
        keep, cross = (1 + 2 * c)[:, None], 2 * e[:, None]
        program.put_sum_a(i, sum_a_ref, keep * a + cross * b + program.along_first(2 * step_a))
        return sum_b + keep * b + cross * a + program.along_first(2 * step_b)

    program.put_sum_b(sum_b_ref, program.for_each(row, program.zeros()))


def _leave(
    grid: Grid, a_ref: Any, b_ref: Any, mean_a_ref: Any, mean_b_ref: Any, *refs: Any, rate: float
) -> None:
    *solved_refs, new_a_ref, new_b_ref, squared_ref = refs
    program = _Program(grid)
    mean_b = program.mean_b(mean_b_ref)

    def row(i: Any, _: Array) -> Array:
        a, b = program.copies(i, a_ref, b_ref)
        mean_a = program.mean_a(i, mean_a_ref)
        c, e, step_a, step_b = program.scalars(i, *solved_refs)
        c, e = c[:, None], e[:, None]
        move_a = (mean_a - a) - (c * a + e * b + program.along_first(step_a))
        move_b = (mean_b - b) - (c * b + e * a + program.along_first(step_b))
        program.put_copies(i, new_a_ref, a + rate * move_a)
        program.put_copies(i, new_b_ref, b + rate * move_b)
        program.put_scalars(i, squared_ref, jnp.sum(jnp.square(move_a) + jnp.square(move_b), 1))
        return _

    program.for_each(row, 0)


def _reflect(
    grid: Grid, a_ref: Any, b_ref: Any, mean_a_ref: Any, mean_b_ref: Any, z_ref: Any,
    new_a_ref: Any, new_b_ref: Any, output_ref: Any, squared_ref: Any, sum_a_ref: Any, sum_b_ref: Any,
    *, rate: float,
) -> None:  # fmt: skip
    program = _Program(grid)
    mean_b = program.mean_b(mean_b_ref)

    def row(i: Any, sum_b: Array) -> Array:
        a, b = program.copies(i, a_ref, b_ref)
        mean_a = program.mean_a(i, mean_a_ref)
        (z,) = program.scalars(i, z_ref)
        u, v = 2 * mean_a - a, 2 * mean_b - b
        c, e, step_a, step_b, output = displacement_of_norms(*_norms(u, v), z)
        program.put_scalars(i, output_ref, output)
        c, e = c[:, None], e[:, None]
        move_a = (u - mean_a) + c * u + e * v + program.along_first(step_a)
        move_b = (v - mean_b) + c * v + e * u + program.along_first(step_b)
        program.put_scalars(i, squared_ref, jnp.sum(jnp.square(move_a) + jnp.square(move_b), 1))
        new_a, new_b = a + rate * move_a, b + rate * move_b
        program.put_copies(i, new_a_ref, new_a)
        program.put_copies(i, new_b_ref, new_b)
        program.put_sum_a(i, sum_a_ref, new_a)
        return sum_b + new_b

    program.put_sum_b(sum_b_ref, program.for_each(row, program.zeros()))
