"""The scalar solves of a whole matrix product in one pass, with all that is made of their results.

A grid of blocks of the output's shape. Each reads the products and the targets once and writes `e` and the
new outputs once; c, the steps and the squared displacements leave the chip only as sums over a block.
Strips of 8 rows are taken one after another, so that what a solve computes stays in registers. A block whose
targets are all near (`dot.is_near`) takes the short solve.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from pjax_prim.primitives.dot import is_near, scaled_residual
from pjax_prim.primitives.linear import Answer, Query, solve, solve_near

from .arrays import LANES, tiled, varying
from .pallas import pl, pltpu

HEIGHT, WIDTH = 512, 256
"""The sizes of a block: its four arrays, double-buffered, take 4 MiB of the chip's memory."""

STRIP = 8
"""Rows that are solved at a time: wider strips do not fit the registers."""


def answer(query: Query, interpret: bool = False) -> Answer:
    """What `pjax_prim.primitives.linear.answer` computes, in float32."""
    shape = query.product.shape
    *batch, p, q = shape
    count = math.prod(batch)
    height, width = min(HEIGHT, tiled(p)), min(WIDTH, tiled(q))
    grid = (count, pl.cdiv(p, height), pl.cdiv(q, width))
    # Columns of one number take the memory of 128: they travel as rows.
    rows = jnp.stack([jnp.broadcast_to(x[..., 0], (*batch, p)) for x in (query.norm_a, query.first_a)], -2)
    columns = jnp.concatenate(
        [jnp.broadcast_to(x, (*batch, 1, q)) for x in (query.norm_b, query.first_b)], -2
    )
    whole = pl.BlockSpec((None, height, width), lambda b, i, j: (b, i, j))
    operands = (
        *(jnp.broadcast_to(x, shape).reshape(count, p, q) for x in (query.product, query.target)),
        rows.reshape(count, 2, p),
        columns.reshape(count, 2, q),
    )
    shapes = (count, p, q), (count, p, q), (count, grid[2], 2, p), (count, grid[1], 3, q)
    with jax.enable_x64(False):  # Mosaic wants indices of 32 bits
        e, output, row_sums, column_sums = pl.pallas_call(
            partial(_kernel, size=(p, q)),
            grid=grid,
            in_specs=[
                whole,
                whole,
                pl.BlockSpec((None, 2, height), lambda b, i, j: (b, 0, i)),
                pl.BlockSpec((None, 2, width), lambda b, i, j: (b, 0, j)),
            ],
            out_specs=[
                whole,
                whole,
                pl.BlockSpec((None, None, 2, height), lambda b, i, j: (b, j, 0, i)),
                pl.BlockSpec((None, None, 3, width), lambda b, i, j: (b, i, 0, j)),
            ],
            out_shape=varying([(shape, jnp.float32) for shape in shapes], *operands),
            scratch_shapes=[
                *[pltpu.VMEM((height, LANES), jnp.float32)] * 3,
                pltpu.VMEM((3, STRIP, width), jnp.float32),
                pltpu.VMEM((STRIP, width), jnp.int32),
            ],
            compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",) * 3),
            interpret=interpret,
            name="pjax_solve",
        )(*operands)
    c_a, step_a = jnp.moveaxis(jnp.sum(row_sums, 1).reshape(*batch, 2, p) / q, -2, 0)
    c_b, step_b, moved = jnp.moveaxis(jnp.sum(column_sums, 1).reshape(*batch, 3, q), -2, 0)
    return Answer(
        c_a, c_b / p, e.reshape(shape), output.reshape(shape), step_a, step_b / p, jnp.sum(moved, -1)
    )


def _kernel(
    product_ref: Any,
    target_ref: Any,
    rows_ref: Any,
    columns_ref: Any,
    e_ref: Any,
    output_ref: Any,
    row_sums_ref: Any,
    column_sums_ref: Any,
    c_ref: Any,
    step_ref: Any,
    norms_ref: Any,
    sums_ref: Any,
    order_ref: Any,
    *,
    size: tuple[int, int],
) -> None:
    height, width = product_ref.shape
    top, left = pl.program_id(1) * height, pl.program_id(2) * width
    # The row in a strip, or too large a number in columns outside of the array.
    row, column = (lax.broadcasted_iota(jnp.int32, (STRIP, width), axis) for axis in (0, 1))
    order_ref[...] = jnp.where(column < size[1] - left, row, size[0])
    # (2, height) to (height, 2)
    norms_ref[:, :8] = jnp.concatenate([rows_ref[...], jnp.zeros((6, height), jnp.float32)]).T

    def part(strip: Array) -> tuple[Any, Query, Array]:
        """Where a strip is, what is asked there, and which of it is inside the array."""
        here = pl.ds(pl.multiple_of(strip * STRIP, STRIP), STRIP)
        query = Query(
            product_ref[here],
            norms_ref[here, 0:1],
            columns_ref[0:1],
            norms_ref[here, 1:2],
            columns_ref[1:2],
            target_ref[here],
        )
        return here, query, order_ref[...] < size[0] - top - strip * STRIP

    def furthest(strip: Array, found: Array) -> Array:
        _, query, inside = part(strip)
        scaled = jnp.abs(scaled_residual(*query.equation()))
        return jnp.maximum(found, jnp.where(inside, scaled, 0))

    def solve_strip(near: bool, strip: Array, _: None) -> None:
        here, query, inside = part(strip)
        solved = solve_near(query, scaled_residual(*query.equation())) if near else solve(query)
        e_ref[here], output_ref[here] = solved.e, solved.output
        inner = jax.tree.map(lambda x: jnp.where(inside, x, 0), solved)
        c_ref[here] = _folded(inner.c)
        sums_ref[0] += inner.c
        sums_ref[2] += inner.moved
        if not near:
            step_ref[here] = _folded(inner.step_a)
            sums_ref[1] += inner.step_b

    def run(near: bool) -> None:
        sums_ref[...] = jnp.zeros(sums_ref.shape, jnp.float32)
        lax.fori_loop(0, height // STRIP, partial(solve_strip, near), None)
        column_sums_ref[...] = jnp.sum(sums_ref[...], 1)
        row_sums_ref[0:1] = _row_sums(c_ref[...])
        row_sums_ref[1:2] = jnp.zeros((1, height), jnp.float32) if near else _row_sums(step_ref[...])

    near = is_near(lax.fori_loop(0, height // STRIP, furthest, jnp.zeros((STRIP, width), jnp.float32)))
    pl.when(near)(partial(run, True))
    pl.when(~near)(partial(run, False))


def _folded(x: Array) -> Array:
    """(rows, columns) to (rows, LANES), by sums."""
    return sum((x[:, i : i + LANES] for i in range(LANES, x.shape[1], LANES)), x[:, :LANES])


def _row_sums(x: Array) -> Array:
    """(rows, columns) to (1, rows)."""
    return jnp.sum(x.T, 0, keepdims=True)
