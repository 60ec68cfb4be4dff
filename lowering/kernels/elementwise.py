"""Elementwise functions on a TPU, strip after strip: what a long one computes stays in registers."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from .arrays import LANES, tiled, varying
from .pallas import pl, pltpu

HEIGHT, WIDTH = 256, 512
"""The sizes of a block."""

STRIP = 8
"""Rows that are computed at a time, of at most `STRIP_WIDTH` numbers."""

STRIP_WIDTH = 256


def elementwise(
    computed: Callable[..., tuple[Array, ...]], *arrays: Array, interpret: bool = False, **static: Any
) -> tuple[Array, ...]:
    """What an elementwise function of arrays of one shape gives, in float32; strips may decide by their own.

    Numbers beyond an array's edges are computed, too, whatever they are.
    """
    function = partial(computed, **static)
    results = jax.eval_shape(function, *arrays)
    shape = results[0].shape
    rows, last = _view(shape)
    flat = [jnp.broadcast_to(x, shape).reshape(rows, last) for x in arrays]
    width = min(WIDTH, tiled(last))
    height = min(HEIGHT, -(-rows // 32) * 32)
    part = min(width, STRIP_WIDTH)
    strip = 32 // min(x.dtype.itemsize for x in (*arrays, *results))

    def kernel(*refs: Any) -> None:
        given, found = refs[: len(arrays)], refs[len(arrays) :]

        def compute(index: Array, _: None) -> None:
            here = pl.ds(pl.multiple_of(index * strip, strip), strip)
            for start in range(0, width, part):
                lanes = pl.ds(start, part)
                values = function(*(ref[here, lanes].astype(jnp.float32) for ref in given))
                for ref, value in zip(found, values, strict=True):
                    ref[here, lanes] = value.astype(ref.dtype)

        lax.fori_loop(0, height // strip, compute, None)

    block = pl.BlockSpec((height, width), lambda i, j: (i, j))
    with jax.enable_x64(False):  # Mosaic wants indices of 32 bits
        out = pl.pallas_call(
            kernel,
            grid=(pl.cdiv(rows, height), pl.cdiv(last, width)),
            in_specs=[block] * len(arrays),
            out_specs=[block] * len(results),
            out_shape=varying([((rows, last), x.dtype) for x in results], *flat),
            compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",) * 2),
            interpret=interpret,
            name="pjax_elementwise",
        )(*flat)
    return tuple(x.reshape(shape) for x in out)


def _view(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of an array: as it lies, but for vectors, which fill registers if they can."""
    size = math.prod(shape)
    if len(shape) < 2:
        return (size // LANES, LANES) if size % LANES == 0 else (1, size)
    return size // shape[-1], shape[-1]
