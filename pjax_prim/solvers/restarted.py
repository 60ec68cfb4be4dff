"""Momentum with restarts."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..problem import AbstractProblem
from .wrapper import AbstractWrapper


class Memory(NamedTuple):
    """What `Restarted` remembers.

    - `ahead`: the point y that the next step is taken from.
    - `momentum`: the steps since the last restart.
    - `size`: the norm of the last residual.
    """

    ahead: Float[Array, " size"]
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
        z = self.vector(state)
        return Memory(z, jnp.zeros((), z.dtype), jnp.full((), jnp.finfo(z.dtype).max, z.dtype))

    def advance_both(
        self, problem: AbstractProblem, state: Any, memory: Memory
    ) -> tuple[Any, Memory, Float[Array, " nodes"]]:
        z, momentum, size = memory
        before = self.vector(state)
        stepped, squared = self.solver.step(problem, self.at(state, z))
        image = self.vector(stepped)
        new = jnp.linalg.norm(image - z)
        momentum = jnp.where(new > size, 0, momentum + 1)
        ahead = image + momentum / (momentum + 3) * (image - before)
        return stepped, Memory(ahead, momentum, new), squared
