"""Alternating projections."""

from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Float

from ..problem import AbstractProblem, Form, State
from .base import AbstractSolver


class AlternatingProjections(AbstractSolver[AbstractProblem]):
    """z <- P_B P_A z.

    The method is also known as projections onto convex sets (von Neumann; Bregman, 1965). It finds a point of
    the intersection, or two nearest points of two sets that do not meet.

    **Arguments:** `form`, "compressed" (a step costs a few gradient steps) or "expanded" (every
    copy is stored); both give the same iterates.
    """

    form: Form = eqx.field(static=True, default="compressed")
    forms: ClassVar[tuple[Form, ...]] = ("compressed", "expanded")
    two_sets: ClassVar[bool] = True

    def step(self, problem: AbstractProblem, state: State) -> tuple[State, Float[Array, " nodes"]]:
        state, (_, moved) = problem.cycle(state)
        return state, moved
