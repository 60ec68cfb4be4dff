"""Safeguarded Anderson acceleration."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from ..errors import ArgumentError
from ..problem import AbstractProblem, Placement, State
from .base import combine
from .wrapper import AbstractWrapper, squared_length


class Memory(NamedTuple):
    """What `Anderson` remembers.

    - `ahead`: the point that the next step is taken from.
    - `images`, `residuals`: of the last steps T z and T z - z, stacked along a first axis.
    - `steps`: taken so far.
    - `least`: the norm of the least residual so far.
    """

    ahead: State
    images: State
    residuals: State
    steps: Int[Array, ""]
    least: Float[Array, ""]


class Anderson(AbstractWrapper):
    """Another solver, whose last steps are combined so that their residuals all but cancel.

    With the steps T z of the last `memory` points z, the next point is the sum of a_i T z_i for which
    |sum of a_i (T z_i - z_i)| is least, where the a_i sum to 1. Where the residual |T z - z| has grown to
    more than twice the least so far, the plain step is taken. Anderson, 1965; Walker and Ni, 2011.

    On one batch it gets far ahead of the solver (`python -m benchmarks.solvers`).

    **Arguments:** `solver`, without a metric of its own; `memory`, at least 2; `metric`, as of every solver.

    Steps are taken from the combined points; what is returned, and what the gap belongs to, is where the last
    step led. `Solution.state` is a `WrapperState`: that of the solver, and 2 `memory` + 1 more of it.

    **Cost:** a step of the solver, and `memory` products of states.
    """

    memory: int = eqx.field(static=True, default=5)

    def __check_init__(self) -> None:
        if isinstance(self.memory, bool) or not isinstance(self.memory, int) or self.memory < 2:
            raise ArgumentError(f"memory: expected an integer of at least 2, given {self.memory!r}")

    def remember(self, problem: AbstractProblem, state: Any) -> Memory:
        z = self.solver.point(state)
        empty = jax.tree.map(lambda x: jnp.zeros((self.memory, *x.shape), x.dtype), z)
        dtype = squared_length(z).dtype
        largest = jnp.full((), jnp.finfo(dtype).max, dtype)
        return Memory(z, empty, empty, jnp.zeros((), jnp.int32), largest)

    def arrange_memory(self, placement: Placement) -> Memory:
        stacked, whole = placement.stacked_state, placement.whole
        return Memory(placement.state, stacked, stacked, whole, whole)  # type: ignore[arg-type]

    def advance_both(
        self, problem: AbstractProblem, state: Any, memory: Memory
    ) -> tuple[Any, Memory, Float[Array, " nodes"]]:
        z, images, residuals, steps, best = memory
        stepped, squared = self.solver.step(problem, self.at(state, z))
        image = self.solver.point(stepped)
        residual = combine(jnp.subtract, image, z)
        size = jnp.sqrt(squared_length(residual))
        place = steps % self.memory

        def put(rows: Array, row: Array) -> Array:
            return lax.dynamic_update_index_in_dim(rows, row, place, 0)

        images, residuals = combine(put, images, image), combine(put, residuals, residual)
        known = jnp.arange(self.memory) <= steps
        products = [_products(rows) for rows in jax.tree.leaves(residuals)]
        gram = jnp.where(known[:, None] & known[None], sum(products, jnp.zeros((), size.dtype)), 0)
        # Residuals are all but parallel: the ridge keeps the weights finite.
        ridge = jnp.sqrt(jnp.finfo(size.dtype).eps) * 1e-4 * jnp.trace(gram) + jnp.finfo(size.dtype).tiny
        weights = jnp.linalg.solve(gram + jnp.diag(jnp.where(known, ridge, 1)), known.astype(size.dtype))
        total = jnp.sum(weights)
        share = weights / jnp.where(total == 0, 1, total)
        usable = (size <= 2 * best) & (total != 0) & jnp.all(jnp.isfinite(weights))

        def mix(rows: Array, row: Array) -> Array:
            mixed = jnp.tensordot(share.astype(rows.dtype), rows, 1, precision="highest")
            return jnp.where(usable, mixed, row)

        ahead = combine(mix, images, image)
        return stepped, Memory(ahead, images, residuals, steps + 1, jnp.minimum(size, best)), squared


def _products(rows: Array) -> Array:
    """The inner products of arrays that are stacked along the first axis; all other axes stay as they lie."""
    axes = tuple(range(1, rows.ndim))
    return lax.dot_general(rows, rows, ((axes, axes), ((), ())), precision=lax.Precision.HIGHEST)
