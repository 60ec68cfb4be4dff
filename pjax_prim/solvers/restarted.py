"""Momentum with restarts."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..problem import AbstractProblem, Placement, State
from .base import combine
from .wrapper import AbstractWrapper, squared_length


class Memory(NamedTuple):
    """What `Restarted` remembers.

    - `ahead`: the point y that the next step is taken from.
    - `momentum`: the steps since the last restart.
    - `size`: the norm of the last residual.
    """

    ahead: State
    momentum: Float[Array, ""]
    size: Float[Array, ""]


class Restarted(AbstractWrapper):
    """Another solver with Nesterov's momentum, which begins anew where the residual has grown.

    For its step T: x_k = T y_k, y_{k+1} = x_k + m / (m + 3) (x_k - x_{k-1}), where m counts the steps since
    |T y - y| last grew. Nesterov, 1983; O'Donoghue and Candes, 2015.

    **Arguments:** `solver`, without a metric of its own; `metric`, as of every solver.

    What is returned is x_k, which the gap belongs to. `Solution.state` is a `WrapperState`: the solver's, and
    one more of it.

    **Cost:** a step of the solver, and a few passes over its state.
    """

    def remember(self, problem: AbstractProblem, state: Any) -> Memory:
        z = self.solver.point(state)
        dtype = squared_length(z).dtype
        return Memory(z, jnp.zeros((), dtype), jnp.full((), jnp.finfo(dtype).max, dtype))

    def arrange_memory(self, placement: Placement) -> Memory:
        return Memory(placement.state, placement.whole, placement.whole)  # type: ignore[arg-type]

    def advance_both(
        self, problem: AbstractProblem, state: Any, memory: Memory
    ) -> tuple[Any, Memory, Float[Array, " nodes"]]:
        z, momentum, size = memory
        before = self.solver.point(state)
        stepped, squared = self.solver.step(problem, self.at(state, z))
        image = self.solver.point(stepped)
        new = jnp.sqrt(squared_length(combine(jnp.subtract, image, z)))
        momentum = jnp.where(new > size, 0, momentum + 1)
        factor = momentum / (momentum + 3)
        ahead = combine(lambda x, y: x + factor.astype(x.dtype) * (x - y), image, before)
        return stepped, Memory(ahead, momentum, new), squared
