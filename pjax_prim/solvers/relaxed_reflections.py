"""Two reflections and a relaxation."""

import abc
from collections.abc import Sequence
from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Float

from ..problem import ExpandedProblem, Form, State, Summary
from ..settings import Setting
from .base import AbstractSolver


class AbstractRelaxedReflections(AbstractSolver[ExpandedProblem]):
    """z <- (1 - r) z + r R_B R_A z with R = 2 P - I, where r is the `factor`."""

    form: eqx.AbstractVar[Form]
    forms: ClassVar[tuple[Form, ...]] = ("expanded",)
    two_sets: ClassVar[bool] = True

    @property
    @abc.abstractmethod
    def factor(self) -> Setting:
        """How far a step goes towards both reflections."""

    def order(self, problem: ExpandedProblem) -> tuple[Sequence[int], Sequence[int]]:
        """The sets A and B, onto which it projects one after the other."""
        set_a, set_b = problem.graph.sets
        return set_a, set_b

    def step(self, problem: ExpandedProblem, state: State) -> tuple[State, Float[Array, " nodes"]]:
        state, _, squared = self.advance(problem, state, self.summary(problem, state))
        return state, squared

    def summary(self, problem: ExpandedProblem, state: State) -> Summary:
        return problem.summary_of(*self.order(problem), state)

    def advance(
        self, problem: ExpandedProblem, state: State, summary: Summary
    ) -> tuple[State, Summary, Float[Array, " nodes"]]:
        # (1 - r) z + r (2 P_B R_A z - R_A z) with R_A z = 2 P_A z - z
        return problem.relaxed_reflections(*self.order(problem), state, summary, self.factor)
