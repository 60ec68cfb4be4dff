"""Sizes of what a kernel reads and writes."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

LANES = 128
"""Of a register: 8 rows of so many numbers."""


def tiled(size: int) -> int:
    """The next multiple of `LANES`."""
    return -(-size // LANES) * LANES


def varying(results: Sequence[tuple[tuple[int, ...], Any]], *operands: Array) -> list[Any]:
    """Results of given shapes and dtypes that vary over the manual axes of a mesh as the operands do.

    A kernel inside `shard_map` has to say so.
    """

    def make(*operands: Array) -> list[Array]:
        zero = sum(jnp.sum(x) for x in operands)
        return [jnp.broadcast_to(zero, shape).astype(dtype) for shape, dtype in results]

    described: list[Any] = jax.eval_shape(make, *operands)
    return described
