"""Cyclic projections."""

from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Float

from ..problem import AbstractProblem, Form, State
from .base import AbstractSolver


class CyclicProjections(AbstractSolver[AbstractProblem]):
    """z <- P_n ... P_2 P_1 z over the graph's sets from the losses backwards.

    Set 1 holds the losses, set i + 1 all producers of set i: one step carries the labels through
    the whole network. The gap is the root of the squared distances of all n projections.

    **Arguments:** `form`, "compressed" or "expanded"; both give the same iterates.
    """

    form: Form = eqx.field(static=True, default="compressed")
    forms: ClassVar[tuple[Form, ...]] = ("compressed", "expanded")
    two_sets: ClassVar[bool] = False

    def step(self, problem: AbstractProblem, state: State) -> tuple[State, Float[Array, " nodes"]]:
        state, moved = problem.cycle(state)
        return state, sum(moved[1:], moved[0])
