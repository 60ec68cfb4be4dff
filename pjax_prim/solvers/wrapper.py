"""Solvers made of another solver."""

import abc
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..errors import ArgumentError
from ..graph import ConstraintGraph
from ..problem import AbstractProblem, Form, Placement, State
from ..problem.base import Readout
from .base import AbstractSolver


class WrapperState(NamedTuple):
    """What a wrapper iterates.

    - `state`: of the inner solver, as its last step left it: the gap that is reported is that of this state.
    - `memory`: the wrapper's own, with the point from which the next step goes on, where that is another one.
    """

    state: Any
    memory: Any


class AbstractWrapper(AbstractSolver[Any]):
    """A solver whose state is that of another one with a memory of its own: `WrapperState`.

    **Arguments** of all: `solver`, without a metric of its own; `metric`, as of every solver.
    """

    solver: AbstractSolver[Any]
    forms: ClassVar[tuple[Form, ...]] = ("compressed", "expanded", "consensus")

    def __check_init__(self) -> None:
        if not isinstance(self.solver, AbstractSolver):
            raise ArgumentError(
                f"solver: expected a solver such as pjp.AlternatingProjections(), given {self.solver!r}"
            )
        if not self.solver.metric.is_unit:
            name = type(self).__name__
            raise ArgumentError(f"solver: expected one with the metric 'unit'; give {name} the metric")

    @property  # type: ignore[misc]
    def form(self) -> Form:  # type: ignore[override]
        """The form of the solver that it wraps."""
        return self.solver.form

    @property
    def two_sets(self) -> bool:  # type: ignore[override]
        """Whether the solver that it wraps projects onto two sets."""
        return self.solver.two_sets

    @abc.abstractmethod
    def remember(self, problem: AbstractProblem, state: Any) -> Any:
        """The memory that goes with a first state of the inner solver."""

    @abc.abstractmethod
    def arrange_memory(self, placement: Placement) -> Any:
        """Where the arrays of a memory lie on a mesh."""

    @abc.abstractmethod
    def advance_both(
        self, problem: AbstractProblem, state: Any, memory: Any
    ) -> tuple[Any, Any, Float[Array, " nodes"]]:
        """`step`, of the inner state and the memory."""

    def check(self, graph: ConstraintGraph) -> None:
        self.solver.check(graph)

    def init(self, problem: AbstractProblem, parameters: Sequence[Array]) -> Any:
        state = self.solver.init(problem, parameters)
        return WrapperState(state, self._placed(problem, self.remember(problem, state)))

    def step(self, problem: AbstractProblem, state: Any) -> tuple[Any, Float[Array, " nodes"]]:
        moved, memory, squared = self.advance_both(problem, *state)
        return WrapperState(moved, self._placed(problem, memory)), squared

    def arrange(self, placement: Placement) -> Any:
        return WrapperState(self.solver.arrange(placement), self.arrange_memory(placement))

    def _placed(self, problem: AbstractProblem, memory: Any) -> Any:
        if problem.placement is None:
            return memory
        places = self.arrange_memory(problem.placement)
        return jax.tree.map(jax.lax.with_sharding_constraint, memory, places)

    def point(self, state: Any) -> State:
        return self.solver.point(state.state)

    def read(self, problem: AbstractProblem, state: Any, readout: Readout) -> list[Array | None]:
        return self.solver.read(problem, state.state, readout)

    def at(self, state: Any, point: State) -> Any:
        """An inner state with another point: what wrappers inside remember stays."""
        return eqx.tree_at(self.solver.point, state, point) if point else state


def squared_length(point: State) -> Array:
    """The sum of the squares of all numbers of a point."""
    squares = [jnp.sum(jnp.square(x)) for x in jax.tree.leaves(point)]
    return sum(squares[1:], squares[0]) if squares else jnp.zeros(())
