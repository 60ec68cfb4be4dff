"""The proximal operator of the cross-entropy on a GPU: Newton's method stays on the chip."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from pjax_prim.primitives.cross_entropy import displace_along

from .arrays import varying
from .pallas import pl, triton

TILE = 2**11
"""Logits of a program of 128 threads."""

FAR_BELOW = -1e30


def fits(logits: Any) -> bool:
    """Whether a program's registers hold a row, and the array has indices of 32 bits."""
    return logits.shape[-1] <= 2 * TILE and math.prod(logits.shape) < 2**31


def displace(logits: Array, labels: Array, lam: Array, *, interpret: bool = False) -> tuple[Array]:
    """What `pjax_prim.primitives.displace_cross_entropy_p` computes, in float32."""
    shape = jnp.broadcast_shapes(logits.shape, labels.shape, (*lam.shape, 1))
    n, count = shape[-1], math.prod(shape[:-1])
    operands = [jnp.broadcast_to(x, shape).reshape(count, n) for x in (logits, labels)]
    operands.append(jnp.broadcast_to(lam, shape[:-1]).reshape(count))
    rows = pl.next_power_of_2(n)
    columns = max(1, TILE // rows)

    def kernel(logits_ref: Any, labels_ref: Any, lam_ref: Any, step_ref: Any) -> None:
        row = lax.broadcasted_iota(jnp.int32, (rows, columns), 0)
        column = pl.program_id(0) * columns + lax.broadcasted_iota(jnp.int32, (rows, columns), 1)
        inside = (row < n) & (column < count)
        x = triton.load(logits_ref.at[column, row], mask=inside, other=0).astype(jnp.float32)
        y = triton.load(labels_ref.at[column, row], mask=inside, other=0).astype(jnp.float32)
        each = pl.program_id(0) * columns + lax.broadcasted_iota(jnp.int32, (columns,), 0)
        steps = triton.load(lam_ref.at[each], mask=each < count, other=0).astype(jnp.float32)
        step = displace_along(0, jnp.where(row < n, x, FAR_BELOW), y, steps[None], n)
        triton.store(step_ref.at[column, row], step.astype(step_ref.dtype), mask=inside)

    with jax.enable_x64(False):
        (step,) = pl.pallas_call(
            kernel,
            grid=(pl.cdiv(count, columns),),
            out_shape=varying([((count, n), logits.dtype)], *operands),
            compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
            interpret=interpret,
            name="pjax_displace_cross_entropy",
        )(*operands)
    return (step.reshape(shape),)
