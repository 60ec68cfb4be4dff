"""Functions of arrays on a GPU, block after block: what a long one computes stays in registers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from .arrays import varying
from .pallas import pl, triton

BLOCK = 2**9
"""Numbers of each array in a program of 128 threads."""


def elementwise(
    computed: Callable[..., tuple[Array, ...]], *arrays: Array, interpret: bool = False, **static: Any
) -> tuple[Array, ...]:
    """What an elementwise function of arrays of one shape gives; blocks may decide by their own numbers."""
    function = partial(computed, **static)
    results = jax.eval_shape(function, *arrays)
    shape, size = results[0].shape, results[0].size
    flat = [jnp.broadcast_to(x, shape).reshape(size) for x in arrays]

    def kernel(*refs: Any) -> None:
        place = pl.program_id(0) * BLOCK + lax.broadcasted_iota(jnp.int32, (BLOCK,), 0)
        inside = place < size
        given = [triton.load(ref.at[place], mask=inside, other=0) for ref in refs[: len(arrays)]]
        for ref, x in zip(refs[len(arrays) :], function(*given), strict=True):
            triton.store(ref.at[place], x, mask=inside)

    with jax.enable_x64(False):
        found = pl.pallas_call(
            kernel,
            grid=(pl.cdiv(size, BLOCK),),
            out_shape=varying([((size,), x.dtype) for x in results], *flat),
            compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
            interpret=interpret,
            name="pjax_elementwise",
        )(*flat)
    return tuple(x.reshape(shape) for x in found)
