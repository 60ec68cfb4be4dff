"""The dot product's part of a Douglas-Rachford step in one pass: copies are read once and written once.

A step of the grid takes the copies of one row of `a` with up to 128 rows of `b`. Strips of them are taken one
after another, first for the sums of squares, then, when the scalars are solved for all of them at once, for
the updates and their sums. What there is one of for each copy lies in columns in the strips and in a row
while it is solved; transposing a block of registers goes from one to the other.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from pjax_prim.primitives.dot import displacement

from .arrays import LANES, tiled, varying

CHUNK = 512
"""Components of a strip that are in registers at a time."""

MEMORY = 48 * 2**20
"""Bytes of the chip's memory that a kernel may take."""


def fits(a: Any) -> bool:
    """Whether blocks of such copies (..., P, Q, K) fit the chip's memory."""
    buffers = 2 * (4 + 2)  # two of each: copies before and after, means of b before and after
    return buffers * LANES * tiled(a.shape[-1]) * 4 <= MEMORY


def reflect_dot(
    a: Array, b: Array, mean_a: Array, mean_b: Array, z: Array, *, relaxation: float, interpret: bool = False
) -> tuple[Array, ...]:
    """What `pjax_prim.primitives.reflect_dot_p` computes, in float32."""
    batch = jnp.broadcast_shapes(*(x.shape[:-3] for x in (a, b, mean_a, mean_b)), z.shape[:-2])
    p, q, k = z.shape[-2], z.shape[-1], a.shape[-1]
    count = math.prod(batch)

    def flat(x: Array, *shape: int) -> Array:
        return jnp.broadcast_to(x, (*batch, *x.shape[len(batch) :])).reshape(count, *shape)

    strip = 32 // min(a.dtype.itemsize, b.dtype.itemsize)
    width = LANES if q > LANES else -(-q // strip) * strip
    copies = pl.BlockSpec((None, None, width, k), lambda g, j, i: (g, i, j, 0))
    row = pl.BlockSpec((None, None, 1, LANES), lambda g, j, i: (g, i, 0, j))
    operands = (
        flat(a, p, q, k),
        flat(b, p, q, k),
        flat(mean_a, p, 1, k),
        flat(mean_b, q, k),
        flat(z, p, 1, q),
    )
    blocks = pl.cdiv(q, width)
    shapes = (
        (operands[0].shape, a.dtype),
        (operands[1].shape, b.dtype),
        ((count, p, 1, q), jnp.float32),
        ((count, p, 1, q), jnp.float32),
        ((count, p, blocks, 1, k), jnp.float32),
        ((count, q, k), jnp.float32),
    )
    with jax.enable_x64(False):  # Mosaic wants indices of 32 bits
        new_a, new_b, output, squared, sums_a, sums_b = pl.pallas_call(
            partial(_kernel, q=q, strip=strip, rate=2 * relaxation),
            grid=(count, blocks, p),
            in_specs=[
                copies,
                copies,
                pl.BlockSpec((None, None, 1, k), lambda g, j, i: (g, i, 0, 0)),
                pl.BlockSpec((None, width, k), lambda g, j, i: (g, j, 0)),
                row,
            ],
            out_specs=[
                copies,
                copies,
                row,
                row,
                pl.BlockSpec((None, None, None, 1, k), lambda g, j, i: (g, i, j, 0, 0)),
                pl.BlockSpec((None, width, k), lambda g, j, i: (g, j, 0)),
            ],
            out_shape=varying(shapes, *operands),
            scratch_shapes=[
                pltpu.VMEM((LANES, LANES), jnp.float32),
                pltpu.VMEM((LANES, LANES), jnp.float32),
                pltpu.VMEM((8, LANES), jnp.float32),
                pltpu.VMEM((strip, k), jnp.float32),
            ],
            input_output_aliases={0: 0, 1: 1},
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=MEMORY + 2**23
            ),
            interpret=interpret,
            name="pjax_reflect_dot",
        )(*operands)
    means = jnp.sum(sums_a, (2, 3)) / q, sums_b / p
    return (
        new_a.reshape(*batch, p, q, k),
        new_b.reshape(*batch, p, q, k),
        output.reshape(*batch, p, q),
        squared.reshape(*batch, p, q),
        means[0].reshape(*batch, p, k).astype(a.dtype),
        means[1].reshape(*batch, q, k).astype(b.dtype),
    )


def _kernel(
    a_ref: Any,
    b_ref: Any,
    mean_a_ref: Any,
    mean_b_ref: Any,
    z_ref: Any,
    new_a_ref: Any,
    new_b_ref: Any,
    output_ref: Any,
    squared_ref: Any,
    sum_a_ref: Any,
    sum_b_ref: Any,
    columns_ref: Any,
    coefficients_ref: Any,
    rows_ref: Any,
    partial_ref: Any,
    *,
    q: int,
    strip: int,
    rate: float,
) -> None:
    width, k = a_ref.shape
    parts = [pl.ds(start, min(CHUNK, k - start)) for start in range(0, k, CHUNK)]
    left = pl.program_id(1) * width
    is_first = pl.program_id(2) == 0
    row_number = lax.broadcasted_iota(jnp.int32, (strip, 1), 0)
    columns_ref[...] = jnp.zeros((LANES, LANES), jnp.float32)
    rows_ref[...] = jnp.zeros((8, LANES), jnp.float32)
    partial_ref[...] = jnp.zeros((strip, k), jnp.float32)

    def rows_of(i: Array) -> Any:
        return pl.ds(pl.multiple_of(i * strip, strip), strip)

    def load(here: Any, lanes: Any) -> tuple[Array, ...]:
        found = a_ref[here, lanes], b_ref[here, lanes], mean_a_ref[0:1, lanes], mean_b_ref[here, lanes]
        return tuple(x.astype(jnp.float32) for x in found)

    def norms(lanes: Any, i: Array, _: None) -> None:
        here = rows_of(i)
        a, b, mean_a, mean_b = load(here, lanes)
        u, v = 2 * mean_a - a, 2 * mean_b - b
        columns_ref[here, 0:1] += 0.25 * jnp.sum(jnp.square(u + v), -1, keepdims=True)
        columns_ref[here, 1:2] += 0.25 * jnp.sum(jnp.square(u - v), -1, keepdims=True)

    for lanes in parts:  # one loop for each: a whole strip does not fit the registers
        lax.fori_loop(0, width // strip, partial(norms, lanes), None)
    transposed = columns_ref[...].T
    s, d, z = transposed[0:1], transposed[1:2], z_ref[...].astype(jnp.float32)
    *found, output_ref[...] = displacement(s, d, z - (s - d), z)
    for index, x in enumerate(found):
        rows_ref[index : index + 1] = x
    coefficients_ref[:, :8] = rows_ref[...].T

    def update(lanes: Any, i: Array, _: None) -> None:
        here = rows_of(i)
        c, e, step_a, step_b = (coefficients_ref[here, j : j + 1] for j in range(4))
        a, b, mean_a, mean_b = load(here, lanes)
        u, v = 2 * mean_a - a, 2 * mean_b - b
        move_a, move_b = (u - mean_a) + c * u + e * v, (v - mean_b) + c * v + e * u
        if lanes is parts[0]:
            is_first_component = lax.broadcasted_iota(jnp.int32, move_a.shape, 1) == 0
            move_a += jnp.where(is_first_component, step_a, 0)
            move_b += jnp.where(is_first_component, step_b, 0)
        new_a, new_b = a + rate * move_a, b + rate * move_b
        new_a_ref[here, lanes] = new_a.astype(new_a_ref.dtype)
        new_b_ref[here, lanes] = new_b.astype(new_b_ref.dtype)
        columns_ref[here, 2:3] += jnp.sum(jnp.square(move_a) + jnp.square(move_b), -1, keepdims=True)
        partial_ref[:, lanes] += jnp.where(left + i * strip + row_number < q, new_a, 0)
        sum_b_ref[here, lanes] = jnp.where(is_first, 0, sum_b_ref[here, lanes]) + new_b

    for lanes in parts:
        lax.fori_loop(0, width // strip, partial(update, lanes), None)
    squared_ref[...] = columns_ref[...].T[2:3]
    sum_a_ref[...] = jnp.sum(partial_ref[...], 0, keepdims=True)
