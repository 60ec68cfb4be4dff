"""The difference map."""

from typing import ClassVar

import equinox as eqx
import jax
from jaxtyping import Array, Float

from ..problem import ExpandedProblem, Form, State, Summary
from ..settings import Setting, check_range
from .base import AbstractSolver, combine


class DifferenceMap(AbstractSolver[ExpandedProblem]):
    """z <- z + beta (P_A f_B(z) - P_B f_A(z)).

    f_A(z) = (1 - 1/beta) P_A z + z/beta and f_B(z) = (1 + 1/beta) P_B z - z/beta
    (Elser, Rankenburg and Thibault, 2007). With beta = 1 it is z + P_A(2 P_B z - z) - P_B z.

    **Arguments:**

    - `beta`: above 0 and at most 2. Four projections a step, two if it is 1.
    - `form`: only "expanded", because the sequence leaves consensus.
    """

    beta: Setting = 1.0
    form: Form = eqx.field(static=True, default="expanded")
    forms: ClassVar[tuple[Form, ...]] = ("expanded",)
    two_sets: ClassVar[bool] = True

    def __check_init__(self) -> None:
        check_range("beta", self.beta, 2)

    def step(self, problem: ExpandedProblem, state: State) -> tuple[State, Float[Array, " nodes"]]:
        state, _, squared = self.advance(problem, state, self.summary(problem, state))
        return state, squared

    def summary(self, problem: ExpandedProblem, state: State) -> Summary:
        set_a, set_b = problem.graph.sets
        return problem.summary_of(set_b, set_a, state)

    def advance(
        self, problem: ExpandedProblem, state: State, summary: Summary
    ) -> tuple[State, Summary, Float[Array, " nodes"]]:
        set_a, set_b = problem.graph.sets

        def general() -> tuple[State, Summary, Float[Array, " nodes"]]:
            moved, squared = self._four_projections(problem, state)
            return moved, self.summary(problem, moved), squared

        # One program for every beta.
        return jax.lax.cond(
            self.beta == 1,
            lambda: problem.relaxed_reflections(set_b, set_a, state, summary, 0.5),
            general,
        )

    def _four_projections(
        self, problem: ExpandedProblem, state: State
    ) -> tuple[State, Float[Array, " nodes"]]:
        set_a, set_b = problem.graph.sets
        inverse = 1 / self.beta
        onto_a, onto_b = problem.project(set_a, state), problem.project(set_b, state)
        behind = combine(lambda p, z: p - inverse * (p - z), onto_a, state)
        ahead = combine(lambda p, z: p + inverse * (p - z), onto_b, state)
        shadow_a, shadow_b = problem.project(set_a, ahead), problem.project(set_b, behind)
        moved = combine(lambda z, a, b: z + self.beta * (a - b), state, shadow_a, shadow_b)
        return moved, problem.squared_distances(shadow_a, shadow_b)
