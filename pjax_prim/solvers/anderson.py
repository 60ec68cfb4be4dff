"""Safeguarded Anderson acceleration."""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..errors import ArgumentError
from ..problem import AbstractProblem
from .wrapper import AbstractWrapper


class Memory(NamedTuple):
    """What `Anderson` remembers.

    - `ahead`: the point that the next step is taken from.
    - `images`, `residuals`: of the last steps T z and T z - z, one row for each.
    - `steps`: taken so far.
    - `least`: the norm of the least residual so far.
    """

    ahead: Float[Array, " size"]
    images: Float[Array, "memory size"]
    residuals: Float[Array, "memory size"]
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
        z = self.vector(state)
        empty = jnp.zeros((self.memory, z.size), z.dtype)
        largest = jnp.full((), jnp.finfo(z.dtype).max, z.dtype)
        return Memory(z, empty, empty, jnp.zeros((), jnp.int32), largest)

    def advance_both(
        self, problem: AbstractProblem, state: Any, memory: Memory
    ) -> tuple[Any, Memory, Float[Array, " nodes"]]:
        z, images, residuals, steps, best = memory
        stepped, squared = self.solver.step(problem, self.at(state, z))
        image = self.vector(stepped)
        residual = image - z
        size = jnp.linalg.norm(residual)
        place = steps % self.memory
        images, residuals = images.at[place].set(image), residuals.at[place].set(residual)
        known = jnp.arange(self.memory) <= steps
        gram = jnp.where(known[:, None] & known[None], residuals @ residuals.T, 0)
        # Residuals are all but parallel: the ridge keeps the weights finite.
        ridge = jnp.sqrt(jnp.finfo(z.dtype).eps) * 1e-4 * jnp.trace(gram) + jnp.finfo(z.dtype).tiny
        weights = jnp.linalg.solve(gram + jnp.diag(jnp.where(known, ridge, 1)), known.astype(z.dtype))
        total = jnp.sum(weights)
        mixed = (weights / jnp.where(total == 0, 1, total)) @ images
        usable = (size <= 2 * best) & (total != 0) & jnp.all(jnp.isfinite(weights))
        ahead = jnp.where(usable, mixed, image)
        return stepped, Memory(ahead, images, residuals, steps + 1, jnp.minimum(size, best)), squared
