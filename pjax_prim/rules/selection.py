"""The constraint of a choice by a comparison (`graph.compose` makes the operation)."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array

from .. import primitives as pp
from ..primitives.select import COMPARISONS
from .constraint import AbstractConstraint, Arrays, Target
from .registry import ConstraintRule, RuleContext, register_projection


@dataclass(frozen=True)
class Select(AbstractConstraint):
    """z = a if x > y else b.

    **Arguments:** `compare`, "gt", "ge", "lt" or "le"; `moves`, which of (x, y, a, b) are operands,
    the others being constants.
    """

    compare: str
    moves: tuple[bool, ...]
    kind: ClassVar[str] = "select"
    elementwise: ClassVar[bool] = True

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        x, y, a, b = self._all(operands, constants)
        return pp.select_p.bind(x, y, a, b, compare=self.compare)[0]

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        return self.project_output(copies, target, constants)[0]

    def project_output(
        self, copies: Arrays, target: Target, constants: Arrays
    ) -> tuple[Arrays, Array | None]:
        """A tie belongs to both choices, so the output is that of the projection, not `evaluate`'s."""
        *moved, output = pp.project_select_p.bind(
            *self._all(copies, constants),
            target,
            compare=self.compare,
            moves=self.moves,
            output=True,
        )
        return tuple(x for x, moves in zip(moved, self.moves, strict=True) if moves), output

    def _all(self, operands: Arrays, constants: Arrays) -> Arrays:
        variable, fixed = iter(operands), iter(constants)
        return tuple(next(variable) if moves else next(fixed) for moves in self.moves)

    def describe(self) -> str:
        names = [name if moves else "c" for name, moves in zip("xyab", self.moves, strict=True)]
        sign = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}[self.compare]
        return f"{names[0]} {sign} {names[1]} ? {names[2]} : {names[3]}"


def _select(ctx: RuleContext) -> ConstraintRule:
    assert ctx.params["compare"] in COMPARISONS
    moves = tuple(not constant for constant in ctx.constant)
    operands = tuple(i for i in range(4) if moves[i])
    constants = tuple(i for i in range(4) if not moves[i])
    return ConstraintRule(Select(ctx.params["compare"], moves), operands, constants, broadcast=True)


register_projection(pp.select_p.primitive, _select)
