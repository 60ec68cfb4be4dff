"""The difference map."""

from collections.abc import Sequence

import equinox as eqx
import jax
from jaxtyping import Array, Float

from ..problem import ExpandedProblem, Form, State, Summary
from ..settings import Setting, check_range
from .base import combine
from .relaxed_reflections import AbstractRelaxedReflections


class DifferenceMap(AbstractRelaxedReflections):
    """z <- z + beta (P_A f_B(z) - P_B f_A(z)).

    f_A(z) = (1 - 1/beta) P_A z + z/beta and f_B(z) = (1 + 1/beta) P_B z - z/beta
    (Elser, Rankenburg and Thibault, 2007). With beta = 1 it is z + P_A(2 P_B z - z) - P_B z.

    **Arguments:**

    - `beta`: above 0 and at most 2. Four projections a step, two if it is 1.
    - `form`: only "expanded", because the sequence leaves consensus.
    """

    beta: Setting = 1.0
    form: Form = eqx.field(static=True, default="expanded")

    def __check_init__(self) -> None:
        check_range("beta", self.beta, 2)

    @property
    def factor(self) -> Setting:
        return 0.5

    def order(self, problem: ExpandedProblem) -> tuple[Sequence[int], Sequence[int]]:
        set_a, set_b = problem.graph.sets
        return set_b, set_a

    def advance(
        self, problem: ExpandedProblem, state: State, summary: Summary
    ) -> tuple[State, Summary, Float[Array, " nodes"]]:
        def general() -> tuple[State, Summary, Float[Array, " nodes"]]:
            moved, squared = self._four_projections(problem, state)
            return moved, self.summary(problem, moved), squared

        # With beta 1 it is Douglas-Rachford from B to A. One program for every beta.
        relaxed = super().advance
        return jax.lax.cond(self.beta == 1, lambda: relaxed(problem, state, summary), general)

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
