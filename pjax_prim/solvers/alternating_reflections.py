"""Alternating reflections."""

from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Float

from ..problem import ExpandedProblem, Form, State
from .base import AbstractSolver, reflect


class AlternatingReflections(AbstractSolver[ExpandedProblem]):
    """z <- R_B R_A z with R = 2 P - I.

    This is the Peaceman-Rachford iteration, which is Douglas-Rachford without averaging.

    **Arguments:** `form`, only "expanded", because the sequence leaves consensus.
    """

    form: Form = eqx.field(static=True, default="expanded")
    forms: ClassVar[tuple[Form, ...]] = ("expanded",)
    two_sets: ClassVar[bool] = True

    def step(self, problem: ExpandedProblem, state: State) -> tuple[State, Float[Array, " nodes"]]:
        set_a, set_b = problem.graph.sets
        shadow_a = problem.project(set_a, state)
        reflected = reflect(shadow_a, state)
        shadow_b = problem.project(set_b, reflected)
        return reflect(shadow_b, reflected), problem.squared_distances(shadow_a, shadow_b)
