"""Cyclic Douglas-Rachford."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..problem import ExpandedProblem, Form, State
from .base import AbstractSolver, reflect


class CyclicDouglasRachford(AbstractSolver[ExpandedProblem]):
    """z <- D_n ... D_1 z with D_i = (I + R_{i+1} R_i)/2 over the sets of `CyclicProjections`.

    Borwein and Tam, 2014; indices are modulo n. The gap is the root of the sum over i of the
    squared distance between P_i z and P_{i+1} R_i z.

    **Arguments:** `form`, only "expanded", because the sequence leaves consensus.
    """

    form: Form = eqx.field(static=True, default="expanded")
    forms: ClassVar[tuple[Form, ...]] = ("expanded",)
    two_sets: ClassVar[bool] = False

    def step(self, problem: ExpandedProblem, state: State) -> tuple[State, Float[Array, " nodes"]]:
        sets = problem.graph.sets
        gaps = jnp.zeros(len(problem.graph.nodes))
        for members, following in zip(sets, (*sets[1:], sets[0]), strict=True):
            first = problem.project(members, state)
            ahead = reflect(first, state)
            second = problem.project(following, ahead)
            # Where one of the two leaves the copies of a node alone, D_i is the other's projection.
            shadows = tuple(
                (a, b) if a is not z and b is not r else (z, b if a is z else a)
                for z, a, r, b in zip(state, first, ahead, second, strict=True)
            )
            gaps = gaps + problem.squared_distances(*zip(*shadows, strict=True))
            state = tuple(
                b if a is own else tuple(z + (y - x) for z, x, y in zip(own, a, b, strict=True))
                for own, (a, b) in zip(state, shadows, strict=True)
            )
        return state, gaps
