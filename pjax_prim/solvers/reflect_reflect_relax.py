"""Reflect-reflect-relax, with an adaptive metric."""

from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Float

from ..errors import ArgumentError
from ..graph import ConstraintGraph
from ..graph.paths import path_of
from ..primitives.threshold import threshold_margin
from ..problem import DividedProblem, Form, State
from ..restricting import Restrictions, check_patterns, choose, pairs_of
from ..restrictions import AbstractRestriction, FixedNorm
from ..rules.threshold import ThresholdDot
from ..settings import Setting, check_setting, check_share
from .base import AbstractSolver


class ReflectReflectRelax(AbstractSolver[DividedProblem]):
    """z <- z + beta (P_B(2 P_A z - z) - P_A z), on the divided form.

    In set A every constraint holds on copies of its own. In set B all copies agree, hard labels hold, and
    parameters are in their restriction. After each step the weight g of an elementary constraint in the
    distance moves to where the shadows are far apart: g += gamma (gap / mean gap - g).

    Elser and Lal, arXiv 2602.17493.

    **Arguments:**

    - `beta`: above 0 and below 2.
    - `gamma`: at least 0 and below 1.
    - `known`: whether a threshold neuron whose output has a hard label is projected with that output, on one
      of its two branches; else the label holds in B alone, and A takes the nearer branch.
    - `restriction`: that of every parameter; or pairs of a pattern of paths (`graph/paths.py`) and a
      restriction or None, of which the first that matches a parameter counts; or None. Where
      `solve(restrictions=...)` restricts a parameter, that counts in place of this.
    """

    beta: Setting = 0.4
    gamma: Setting = 3e-3
    restriction: Restrictions = eqx.field(static=True, default=FixedNorm())
    known: bool = eqx.field(static=True, default=False)
    form: Form = eqx.field(static=True, default="divided")
    forms: ClassVar[tuple[Form, ...]] = ("divided",)
    two_sets: ClassVar[bool] = False

    def __check_init__(self) -> None:
        self._only_unit("adapts a metric of its own; expected gamma=...")
        check_setting("beta", self.beta, "a number above 0 and below 2", lambda x: (x > 0) & (x < 2))
        check_share(gamma=self.gamma)

    def restrict(self, name: str) -> AbstractRestriction | None:
        """The restriction of a parameter, by its name in the graph."""
        return choose(pairs_of(self.restriction), path_of(name))

    def check(self, graph: ConstraintGraph) -> None:
        names = [graph.nodes[index].name for index in graph.parameters if index is not None]
        check_patterns(pairs_of(self.restriction), list(map(path_of, names)), "restriction")
        for node in graph.nodes:
            if isinstance(node.constraint, ThresholdDot):
                for producer in node.operands[0].producers:
                    self._check_margin(node.name, node.constraint, graph.nodes[producer].name)

    def _check_margin(self, neuron: str, constraint: ThresholdDot, weights: str) -> None:
        restriction = self.restrict(weights)
        length = restriction.length if isinstance(restriction, FixedNorm) else None
        if length is not None and length**2 * constraint.sigma < 1:
            inputs, sigma = constraint.shapes[0][-1], constraint.sigma
            raise ArgumentError(
                f"restriction: no weights of length {length:g} meet the margin "
                f"{threshold_margin(inputs, sigma):g} of {neuron} at {inputs} inputs of +-1; "
                f"expected a length of at least {sigma**-0.5:g}"
            )

    def step(self, problem: DividedProblem, state: State) -> tuple[State, Float[Array, " nodes"]]:
        first = problem.project(state, self.known)
        reflected = tuple(
            (*(2 * p - z for p, z in zip(a[:-1], b[:-1], strict=True)), *b[-1:]) if len(b) > 1 else b
            for a, b in zip(first, state, strict=True)
        )
        second = problem.concur(reflected, self.restrict)
        moved = tuple(
            (*(z + self.beta * (q - p) for z, p, q in zip(c[:-1], a[:-1], b[:-1], strict=True)), *c[-1:])
            if len(c) > 1
            else b
            for a, b, c in zip(first, second, state, strict=True)
        )
        squared = problem.squared_distances(second, first)
        return problem.adapt(moved, squared, self.gamma), problem.total(squared)
