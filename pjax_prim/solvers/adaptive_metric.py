"""A metric that follows the gaps."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..errors import ArgumentError
from ..problem import AbstractProblem, Placement
from ..problem.base import Readout
from ..settings import Setting, check_share
from .wrapper import AbstractWrapper


class Memory(NamedTuple):
    """What `AdaptiveMetric` remembers: the factors of the last step, and where they move before the next."""

    factors: Float[Array, " nodes"]
    wanted: Float[Array, " nodes"]


class AdaptiveMetric(AbstractWrapper):
    """Another solver, whose nodes count the more in consensus the farther they are from being satisfied.

    After each step the factor of a node in consensus (`pjp.Metric.nodes`) moves to where gaps are large:
    g <- g + rate (gap / mean gap - g), with the gap of a node by the root of its number of elementary
    constraints, and the mean over nodes. It starts at the factor that `metric` gives, or 1. Elser and Lal,
    arXiv 2602.17493, do this for every elementary constraint (`ReflectReflectRelax`).

    **Arguments:** `solver`, in the compressed or the expanded form and without a metric of its own; `rate`,
    at least 0 and below 1; `metric`, as of every solver.

    The factors change before a step, by the gaps of the step before: those in the memory of the
    `WrapperState` are the ones in which its state was made and its gap was measured.
    """

    rate: Setting = 3e-3

    def __check_init__(self) -> None:
        check_share(rate=self.rate)
        if self.form == "consensus":
            name = type(self.solver).__name__
            raise ArgumentError(f"solver: expected one in the compressed or expanded form, given {name}")

    def remember(self, problem: AbstractProblem, state: Any) -> Memory:
        given = problem.graph.factors or (1.0,) * len(problem.graph.nodes)
        factors = jnp.asarray(given, jnp.float32)
        return Memory(factors, factors)

    def arrange_memory(self, placement: Placement) -> Memory:
        return Memory(placement.whole, placement.whole)  # type: ignore[arg-type]

    def advance_both(
        self, problem: AbstractProblem, state: Any, memory: Memory
    ) -> tuple[Any, Memory, Float[Array, " nodes"]]:
        factors = memory.factors + self.rate * (memory.wanted - memory.factors)
        moved, squared = self.solver.step(problem.with_factors(factors), state)
        counts = np.array([node.constraints for node in problem.graph.nodes])
        is_constraint = counts > 0
        gaps = jnp.where(is_constraint, jnp.sqrt(squared / np.maximum(counts, 1)), 0)
        mean = jnp.sum(gaps) / is_constraint.sum()
        wanted = jnp.where(is_constraint & (mean > 0), gaps / jnp.where(mean > 0, mean, 1), 1)
        return moved, Memory(factors, wanted.astype(factors.dtype)), squared

    def read(self, problem: AbstractProblem, state: Any, readout: Readout) -> list[Array | None]:
        return super().read(problem.with_factors(state.memory.factors), state, readout)
