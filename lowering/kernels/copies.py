"""Copies (..., P, Q, K) of a dot product's operands as kernels take them.

A step of the grid takes the copies of one row of `a` with up to 128 rows of `b`. Strips of them are taken one
after another. What there is one of for each copy lies in columns in the strips and in a row elsewhere;
transposing a block of registers goes from one to the other.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from .arrays import LANES, Batch, tiled, varying
from .pallas import pl, pltpu

CHUNK = 512
"""Components of a strip that are in registers at a time."""

MEMORY = 48 * 2**20
"""Bytes of the chip's memory that a kernel may take."""


def fits(a: Any) -> bool:
    """Whether blocks of such copies fit the chip's memory."""
    buffers = 2 * (4 + 2)  # two of each: copies before and after, means of b before and after
    return buffers * LANES * tiled(a.shape[-1]) * 4 <= MEMORY


class Grid(Batch):
    """Blocks of copies and of what belongs to them; `scalars` are (..., P, Q), `others` means."""

    def __init__(self, a: Array, b: Array, scalars: Array, *others: Array):
        super().__init__(a, b, scalars, *others)
        self.strip = 32 // min(a.dtype.itemsize, b.dtype.itemsize)
        self.width = LANES if self.q > LANES else -(-self.q // self.strip) * self.strip
        self.blocks = pl.cdiv(self.q, self.width)
        k, width = self.k, self.width
        self.copies = pl.BlockSpec((None, None, width, k), lambda g, j, i: (g, i, j, 0))
        self.row = pl.BlockSpec((None, None, 1, LANES), lambda g, j, i: (g, i, 0, j))
        self.mean_a = pl.BlockSpec((None, None, 1, k), lambda g, j, i: (g, i, 0, 0))
        self.mean_b = pl.BlockSpec((None, width, k), lambda g, j, i: (g, j, 0))
        self.sum_a = pl.BlockSpec((None, None, None, 1, k), lambda g, j, i: (g, i, j, 0, 0))
        row = ((self.count, self.p, 1, self.q), jnp.float32)
        self.shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "a": ((self.count, self.p, self.q, k), a.dtype),
            "b": ((self.count, self.p, self.q, k), b.dtype),
            "row": row,
            "sum_a": ((self.count, self.p, self.blocks, 1, k), jnp.float32),
            "sum_b": ((self.count, self.q, k), jnp.float32),
        }

    def given(self, a: Array, b: Array) -> tuple[Array, Array]:
        shape = self.p, self.q, self.k
        return self.flat(a, *shape), self.flat(b, *shape)

    def means(self, mean_a: Array, mean_b: Array) -> tuple[Array, Array]:
        return self.flat(mean_a, self.p, 1, self.k), self.flat(mean_b, self.q, self.k)

    def rows(self, *scalars: Array) -> tuple[Array, ...]:
        return tuple(self.flat(x, self.p, 1, self.q) for x in scalars)

    def call(
        self,
        kernel: Any,
        name: str,
        operands: Sequence[Array],
        in_specs: Sequence[Any],
        results: Sequence[str],
        interpret: bool,
        in_place: bool,
    ) -> list[Array]:
        """Runs a kernel; it gets scratch for columns, coefficients, rows and partial sums last."""
        specs = {
            "a": self.copies, "b": self.copies, "row": self.row, "sum_a": self.sum_a, "sum_b": self.mean_b
        }  # fmt: skip
        with jax.enable_x64(False):  # Mosaic wants indices of 32 bits
            found: list[Array] = pl.pallas_call(
                partial(kernel, q=self.q, strip=self.strip),
                grid=(self.count, self.blocks, self.p),
                in_specs=list(in_specs),
                out_specs=[specs[x] for x in results],
                out_shape=varying([self.shapes[x] for x in results], *operands),
                scratch_shapes=[
                    pltpu.VMEM((LANES, LANES), jnp.float32),
                    pltpu.VMEM((LANES, LANES), jnp.float32),
                    pltpu.VMEM((8, LANES), jnp.float32),
                    pltpu.VMEM((self.strip, self.k), jnp.float32),
                ],
                input_output_aliases={0: 0, 1: 1} if in_place else {},
                compiler_params=pltpu.CompilerParams(
                    dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=MEMORY + 2**23
                ),
                interpret=interpret,
                name=name,
            )(*operands)
        return found

    def original(self, x: Array, *shape: int) -> Array:
        return x.reshape(*self.batch, *shape)

    def averages(self, sums_a: Array, sums_b: Array, *dtypes: Any) -> tuple[Array, Array]:
        """The means of a over Q and of b over P from the kernel's sums."""
        means = jnp.sum(sums_a, (2, 3)) / self.q, sums_b / self.p
        return (
            self.original(means[0], self.p, self.k).astype(dtypes[0]),
            self.original(means[1], self.q, self.k).astype(dtypes[1]),
        )


class Strips:
    """The strips of one block inside a kernel, and chunks of their components."""

    def __init__(self, a_ref: Any, b_ref: Any, strip: int):
        self.a_ref, self.b_ref, self.strip = a_ref, b_ref, strip
        self.width, k = a_ref.shape
        self.chunks = [pl.ds(start, min(CHUNK, k - start)) for start in range(0, k, CHUNK)]
        self.left = pl.program_id(1) * self.width
        self.is_first_row = pl.program_id(2) == 0
        self._row_number = lax.broadcasted_iota(jnp.int32, (strip, 1), 0)

    def rows(self, i: Array) -> Any:
        return pl.ds(pl.multiple_of(i * self.strip, self.strip), self.strip)

    def load(self, here: Any, lanes: Any) -> tuple[Array, Array]:
        return self.a_ref[here, lanes].astype(jnp.float32), self.b_ref[here, lanes].astype(jnp.float32)

    def inside(self, i: Array, q: int) -> Array:
        """Which rows of a strip are inside the array."""
        return self.left + i * self.strip + self._row_number < q

    def for_each(self, function: Any) -> None:
        """`function(lanes, i, None)`; one loop for each chunk: a whole strip does not fit the registers."""
        for lanes in self.chunks:
            lax.fori_loop(0, self.width // self.strip, partial(function, lanes), None)

    def first_component(self, lanes: Any, x: Array, step: Array) -> Array:
        """x with a column added to the first component of all."""
        if lanes is not self.chunks[0]:
            return x
        is_first = lax.broadcasted_iota(jnp.int32, x.shape, 1) == 0
        return x + jnp.where(is_first, step, 0)
