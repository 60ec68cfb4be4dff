"""A metric that follows the gaps."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..errors import ArgumentError
from ..problem import AbstractProblem, State
from ..problem.base import Readout
from .wrapper import AbstractWrapper


class AdaptiveMetric(AbstractWrapper):
    """Another solver, whose nodes count the more in consensus the farther they are from being satisfied.

    After each step the factor of a node in consensus (`pjp.Metric.nodes`) moves to where gaps are large:
    g <- g + rate (gap / mean gap - g), with the gap of a node by the root of its number of elementary
    constraints, and the mean over nodes. It starts at the factor that `metric` gives, or 1. Elser and Lal,
    arXiv 2602.17493, do this for every elementary constraint (`ReflectReflectRelax`).

    **Arguments:** `solver`, in the compressed or the expanded form and without a metric of its own; `rate`,
    at least 0 and below 1; `metric`, as of every solver.

    The state is that of the solver, and the factors.
    """

    rate: float = 3e-3

    def __check_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ArgumentError(f"rate: expected a number of at least 0 and below 1, given {self.rate!r}")
        if self.form == "consensus":
            name = type(self.solver).__name__
            raise ArgumentError(f"solver: expected one in the compressed or expanded form, given {name}")

    def remember(self, problem: AbstractProblem, state: State) -> tuple[Array, ...]:
        given = problem.graph.factors or (1.0,) * len(problem.graph.nodes)
        return (jnp.asarray(given, jnp.float32),)

    def advance_both(
        self, problem: AbstractProblem, state: State, memory: tuple[Array, ...]
    ) -> tuple[State, tuple[Array, ...], Float[Array, " nodes"]]:
        (factors,) = memory
        moved, squared = self.solver.step(problem.with_factors(factors), state)
        counts = np.array([node.constraints for node in problem.graph.nodes])
        is_constraint = counts > 0
        gaps = jnp.where(is_constraint, jnp.sqrt(squared / np.maximum(counts, 1)), 0)
        mean = jnp.sum(gaps) / is_constraint.sum()
        wanted = jnp.where(is_constraint & (mean > 0), gaps / jnp.where(mean > 0, mean, 1), 1)
        return moved, (factors + self.rate * (wanted.astype(factors.dtype) - factors),), squared

    def read(self, problem: AbstractProblem, state: State, readout: Readout) -> list[Array | None]:
        return super().read(problem.with_factors(state[-1][0]), state, readout)
