"""Softmax as one constraint."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array

from .. import primitives as pp
from .constraint import Arrays, Target
from .reductions import Reduction, axes_of
from .registry import ConstraintRule, RuleContext, register_projection


@dataclass(frozen=True)
class Softmax(Reduction):
    """y = exp(x) / sum exp(x) over axes."""

    kind: ClassVar[str] = "softmax"

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        axes = self.from_last(operands[0].ndim)
        return pp.softmax_p.bind(*operands, axes=axes)[0]

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        (x,) = copies
        (moved,) = pp.project_softmax_p.bind(self.rows(x), self.rows(target))
        return (self.unrows(moved, x.shape),)


def _softmax(ctx: RuleContext) -> ConstraintRule:
    return ConstraintRule(Softmax(axes_of(ctx)), (0,))


register_projection(pp.softmax_p.primitive, _softmax)
