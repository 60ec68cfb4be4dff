"""Douglas-Rachford."""

from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Float

from ..problem import ExpandedProblem, Form, State, Summary
from ..settings import Setting, check_range
from .base import AbstractSolver


class DouglasRachford(AbstractSolver[ExpandedProblem]):
    """z <- (1 - r) z + r R_B R_A z with R = 2 P - I.

    With r = 1/2 it is the classical iteration (Douglas and Rachford, 1956; Lions and Mercier, 1979).

    **Arguments:**

    - `relaxation`: r, above 0 and at most 1.
    - `form`: only "expanded", because the sequence leaves consensus.
    """

    relaxation: Setting = 0.5
    form: Form = eqx.field(static=True, default="expanded")
    forms: ClassVar[tuple[Form, ...]] = ("expanded",)
    two_sets: ClassVar[bool] = True

    def __check_init__(self) -> None:
        check_range("relaxation", self.relaxation, 1)

    def step(self, problem: ExpandedProblem, state: State) -> tuple[State, Float[Array, " nodes"]]:
        state, _, squared = self.advance(problem, state, self.summary(problem, state))
        return state, squared

    def summary(self, problem: ExpandedProblem, state: State) -> Summary:
        set_a, set_b = problem.graph.sets
        return problem.summary_of(set_a, set_b, state)

    def advance(
        self, problem: ExpandedProblem, state: State, summary: Summary
    ) -> tuple[State, Summary, Float[Array, " nodes"]]:
        # (1 - r) z + r (2 P_B R_A z - R_A z) with R_A z = 2 P_A z - z
        set_a, set_b = problem.graph.sets
        return problem.relaxed_reflections(set_a, set_b, state, summary, self.relaxation)
