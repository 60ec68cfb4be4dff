"""A metric that follows the gaps."""

from collections.abc import Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..errors import ArgumentError
from ..graph import ConstraintGraph
from ..metric import Metric, metric_of
from ..problem import AbstractProblem, Form, State
from ..problem.base import Readout
from .base import AbstractSolver


class AdaptiveMetric(AbstractSolver[AbstractProblem]):
    """Another solver, whose nodes count the more in consensus the farther they are from being satisfied.

    After each step the factor of a node in consensus (`pjp.Metric.nodes`) moves to where gaps are large:
    g <- g + rate (gap / mean gap - g), with the gap of a node by the root of its number of elementary
    constraints, and the mean over nodes. It starts at the factor that `metric` gives, or 1. Elser and Lal,
    arXiv 2602.17493, do this for every elementary constraint (`ReflectReflectRelax`).

    **Arguments:** `solver`, in the compressed or the expanded form and without a metric of its own; `rate`,
    at least 0 and below 1; `metric`, as of every solver.

    The state is that of the solver, and the factors.
    """

    solver: AbstractSolver[Any]  # type: ignore[misc]  # what has a default before it is keyword-only
    rate: float = 3e-3
    form: Form = eqx.field(static=True, default="compressed")
    forms: ClassVar[tuple[Form, ...]] = ("compressed", "expanded")

    def __init__(self, solver: AbstractSolver[Any], rate: float = 3e-3, *, metric: Metric | str = "unit"):
        self.solver, self.rate, self.metric, self.form = solver, rate, metric, solver.form

    def __check_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ArgumentError(f"rate: expected a number of at least 0 and below 1, given {self.rate!r}")
        if metric_of(self.solver.metric) != Metric():
            raise ArgumentError("solver: expected one with the metric 'unit'; give AdaptiveMetric the metric")

    @property
    def two_sets(self) -> bool:  # type: ignore[override]
        return self.solver.two_sets

    def check(self, graph: ConstraintGraph) -> None:
        self.solver.check(graph)

    def init(self, problem: AbstractProblem, parameters: Sequence[Array]) -> State:
        nodes = problem.graph.nodes
        given = problem.graph.factors or (1.0,) * len(nodes)
        return (*self.solver.init(problem, parameters), (jnp.asarray(given, jnp.float32),))

    def step(self, problem: AbstractProblem, state: State) -> tuple[State, Float[Array, " nodes"]]:
        *inner, (factors,) = state
        moved, squared = self.solver.step(problem.with_factors(factors), tuple(inner))
        counts = np.array([node.constraints for node in problem.graph.nodes])
        is_constraint = counts > 0
        gaps = jnp.where(is_constraint, jnp.sqrt(squared / np.maximum(counts, 1)), 0)
        mean = jnp.sum(gaps) / is_constraint.sum()
        wanted = jnp.where(is_constraint & (mean > 0), gaps / jnp.where(mean > 0, mean, 1), 1)
        return (*moved, (factors + self.rate * (wanted.astype(factors.dtype) - factors),)), squared

    def read(self, problem: AbstractProblem, state: State, readout: Readout) -> list[Array | None]:
        *inner, (factors,) = state
        return self.solver.read(problem.with_factors(factors), tuple(inner), readout)
