"""Solvers made of another solver."""

import abc
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from ..errors import ArgumentError
from ..graph import ConstraintGraph
from ..metric import Metric, metric_of
from ..problem import AbstractProblem, Form, State
from ..problem.base import Readout
from .base import AbstractSolver


class AbstractWrapper(AbstractSolver[Any]):
    """What it iterates is the inner solver's state; its own memory is the last entry of the state.

    **Arguments** of all: `solver`, without a metric of its own; `metric`, as of every solver.
    """

    solver: AbstractSolver[Any]
    forms: ClassVar[tuple[Form, ...]] = ("compressed", "expanded", "consensus")

    def __check_init__(self) -> None:
        if metric_of(self.solver.metric) != Metric():
            name = type(self).__name__
            raise ArgumentError(f"solver: expected one with the metric 'unit'; give {name} the metric")

    @property  # type: ignore[misc]
    def form(self) -> Form:  # type: ignore[override]
        return self.solver.form

    @property
    def two_sets(self) -> bool:  # type: ignore[override]
        return self.solver.two_sets

    @abc.abstractmethod
    def remember(self, problem: AbstractProblem, state: State) -> tuple[Array, ...]:
        """The memory that goes with a first state of the inner solver."""

    @abc.abstractmethod
    def advance_both(
        self, problem: AbstractProblem, state: State, memory: tuple[Array, ...]
    ) -> tuple[State, tuple[Array, ...], Float[Array, " nodes"]]:
        """`step`, of the inner state and the memory."""

    def check(self, graph: ConstraintGraph) -> None:
        self.solver.check(graph)

    def init(self, problem: AbstractProblem, parameters: Sequence[Array]) -> State:
        state = self.solver.init(problem, parameters)
        return (*state, self.remember(problem, state))

    def step(self, problem: AbstractProblem, state: State) -> tuple[State, Float[Array, " nodes"]]:
        moved, memory, squared = self.advance_both(problem, state[:-1], state[-1])
        return (*moved, memory), squared

    def read(self, problem: AbstractProblem, state: State, readout: Readout) -> list[Array | None]:
        return self.solver.read(problem, state[:-1], readout)


def as_vector(state: State) -> tuple[Array, Callable[[Array], State]]:
    """A state as one array, and the way back."""
    found: tuple[Array, Callable[[Array], State]] = ravel_pytree(state)
    return found
