"""What a solver is."""

import abc
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..errors import ArgumentError
from ..graph import ConstraintGraph
from ..metric import Metric, metric_of
from ..problem import AbstractProblem, Form, Placement, State
from ..problem.base import Readout
from ..settings import Setting

Problem = TypeVar("Problem", bound=AbstractProblem)


class AbstractSolver(eqx.Module, Generic[Problem]):
    """An iteration on the states of a feasibility problem.

    **Arguments** of every solver: `metric`, a `pjp.Metric` or the name of one of `pjp.METRICS`.

    - `forms`: the forms of the state in which it is exact; the first is the default.
    - `two_sets`: whether it needs a graph that is two-coloured.

    Settings that are numbers (a relaxation, a rate) may be Python's, NumPy's or JAX's, traced ones too: they
    are operands of the compiled program. A new value compiles nothing, and `jax.vmap` over them works, with
    `eqx.filter_vmap` over a solver whose settings have an axis. Values are checked where they are known;
    a traced one out of its range is not noticed. What changes the program is static: fields marked so.
    """

    metric: Metric = eqx.field(converter=metric_of, default="unit", kw_only=True)
    form: eqx.AbstractVar[Form]
    forms: eqx.AbstractClassVar[tuple[Form, ...]]
    two_sets: eqx.AbstractClassVar[bool]

    def __check_init__(self) -> None:
        if self.form not in self.forms:
            raise ArgumentError(
                f"form: {type(self).__name__} runs in the form(s) {', '.join(map(repr, self.forms))}, "
                f"given {self.form!r}"
            )

    def _only_unit(self, why: str) -> None:
        """Raises `ArgumentError` for a metric."""
        if not self.metric.is_unit:
            raise ArgumentError(f"metric: {type(self).__name__} {why}, given {self.metric!r}")

    def check(self, graph: ConstraintGraph) -> None:
        """Raises `ArgumentError` where the solver's settings do not fit a graph."""

    def init(self, problem: Problem, parameters: Sequence[Array]) -> State:
        """The first state, by default that of the forward pass."""
        return problem.initial(parameters)

    @abc.abstractmethod
    def step(self, problem: Problem, state: State) -> tuple[State, Float[Array, " nodes"]]:
        """Takes one iteration.

        **Returns:** the new state, and for each node the squared distance between the shadows.
        """

    def point(self, state: Any) -> State:
        """The arrays of the nodes among what the solver iterates, which leaves out a wrapper's memory."""
        return state

    def arrange(self, placement: Placement) -> Any:
        """Where the arrays of what the solver iterates lie on a mesh, a wrapper's memory among them."""
        return placement.state

    def read(self, problem: Problem, state: State, readout: Readout) -> list[Array | None]:
        """The parameters that a state stands for; see `AbstractProblem.parameters`."""
        return problem.parameters(state, readout)

    def summary(self, problem: Problem, state: State) -> Any:
        """What a step needs to know of a state, and the step before can tell; by default nothing."""
        return ()

    def advance(
        self, problem: Problem, state: State, summary: Any
    ) -> tuple[State, Any, Float[Array, " nodes"]]:
        """Takes a step from a state and its `summary`, and gives both anew; loops call this method."""
        state, squared = self.step(problem, state)
        return state, self.summary(problem, state), squared

    def terminate(self, gap: Float[Array, ""], tol: Setting | None) -> Bool[Array, ""]:
        """Whether the problem counts as solved; by default it does when the gap is at most `tol`."""
        return jnp.zeros((), bool) if tol is None else gap <= tol


def combine(function: Callable[..., Any], *states: State) -> State:
    """`function` of corresponding arrays of states."""
    return jax.tree.map(function, *states)


def reflect(projected: State, state: State) -> State:
    """2 P z - z; the copies of a node that the projection left alone are themselves again."""
    return tuple(
        own if new is own else tuple(2 * p - z for p, z in zip(new, own, strict=True))
        for new, own in zip(projected, state, strict=True)
    )
