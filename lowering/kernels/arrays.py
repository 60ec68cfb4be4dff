"""Sizes of what a kernel reads and writes."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

LANES = 128
"""The numbers in each of the 8 rows of a register."""


def tiled(size: int) -> int:
    """The next multiple of `LANES`."""
    return -(-size // LANES) * LANES


class Batch:
    """The sizes of copies (..., P, Q, K), their scalars (..., P, Q) and means; one batch axis for all."""

    def __init__(self, a: Array, b: Array, scalars: Array, *means: Array):
        arrays = (a, b, *means)
        self.batch = jnp.broadcast_shapes(*(x.shape[:-3] for x in arrays), scalars.shape[:-2])
        self.count = math.prod(self.batch)
        self.p, self.q, self.k = scalars.shape[-2], scalars.shape[-1], a.shape[-1]

    def flat(self, x: Array, *shape: int) -> Array:
        """The array with one batch axis before axes of this shape."""
        return jnp.broadcast_to(x, (*self.batch, *x.shape[len(self.batch) :])).reshape(self.count, *shape)


def for_rows(*scalars: Array) -> tuple[Array, ...]:
    """Scalars (..., P, Q) of which the last, common to all copies, is given as (..., 1, 1)."""
    *each, common = scalars
    first, common = jnp.broadcast_arrays(each[0], common)
    return (first, *each[1:], common)


def varying(results: Sequence[tuple[tuple[int, ...], Any]], *operands: Array) -> list[Any]:
    """Results of given shapes and dtypes that vary over the manual axes of a mesh as the operands do.

    A kernel inside `shard_map` has to say so.
    """

    def make(*operands: Array) -> list[Array]:
        zero = sum(jnp.sum(x) for x in operands)
        return [jnp.broadcast_to(zero, shape).astype(dtype) for shape, dtype in results]

    described: list[Any] = jax.eval_shape(make, *operands)
    return described
