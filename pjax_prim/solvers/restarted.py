"""Momentum with restarts."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..problem import AbstractProblem, State
from .wrapper import AbstractWrapper, as_vector


class Restarted(AbstractWrapper):
    """Another solver with Nesterov's momentum, which begins anew where the residual has grown.

    For its step T: x_k = T y_k, y_{k+1} = x_k + m / (m + 3) (x_k - x_{k-1}), where m counts the steps since
    |T y - y| last grew. Nesterov, 1983; O'Donoghue and Candes, 2015.

    **Arguments:** `solver`, without a metric of its own; `metric`, as of every solver.

    The state is that of the solver, and one more of it.

    **Cost:** a step of the solver, and a few passes over its state.
    """

    def remember(self, problem: AbstractProblem, state: State) -> tuple[Array, ...]:
        z, _ = as_vector(state)
        return z, jnp.zeros((), z.dtype), jnp.asarray(jnp.finfo(z.dtype).max, z.dtype)

    def advance_both(
        self, problem: AbstractProblem, state: State, memory: tuple[Array, ...]
    ) -> tuple[State, tuple[Array, ...], Float[Array, " nodes"]]:
        before, momentum, size = memory
        stepped, squared = self.solver.step(problem, state)
        (z, back), (image, _) = as_vector(state), as_vector(stepped)
        new = jnp.linalg.norm(image - z)
        momentum = jnp.where(new > size, 0, momentum + 1)
        ahead = image + momentum / (momentum + 3) * (image - before)
        return back(ahead), (image, momentum, new), squared
