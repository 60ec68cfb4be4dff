"""The difference map."""

from typing import ClassVar

import equinox as eqx
import jax
from jaxtyping import Array, Float

from ..problem import ExpandedProblem, Form, State
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
        set_a, set_b = problem.graph.sets
        inverse = 1 / self.beta
        onto_b = problem.project(set_b, state)
        ahead = combine(lambda p, z: (1 + inverse) * p - inverse * z, onto_b, state)
        shadow_a = problem.project(set_a, ahead)

        def behind() -> State:
            onto_a = problem.project(set_a, state)
            return problem.project(
                set_b, combine(lambda p, z: (1 - inverse) * p + inverse * z, onto_a, state)
            )

        # One program for every beta; with 1 the second half of it is passed over.
        shadow_b = jax.lax.cond(self.beta == 1, lambda: onto_b, behind)
        moved = combine(lambda z, a, b: z + self.beta * (a - b), state, shadow_a, shadow_b)
        return moved, problem.squared_distances(shadow_a, shadow_b)
