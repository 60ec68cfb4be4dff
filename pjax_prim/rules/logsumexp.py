"""Logsumexp as one constraint."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array

from .. import primitives as pp
from .constraint import Arrays, Target
from .reductions import Reduction, axes_of
from .registry import ConstraintRule, RuleContext, register_projection


@dataclass(frozen=True)
class LogSumExp(Reduction):
    """y = log sum exp(x) over axes."""

    kind: ClassVar[str] = "logsumexp"

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        axes = self.from_last(operands[0].ndim)
        return pp.logsumexp_p.bind(*operands, axes=axes)[0]

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        (x,) = copies
        (moved,) = pp.project_logsumexp_p.bind(self.rows(x), target)
        return (self.unrows(moved, x.shape),)


def _logsumexp(ctx: RuleContext) -> ConstraintRule:
    return ConstraintRule(LogSumExp(axes_of(ctx)), (0,))


register_projection(pp.logsumexp_p.primitive, _logsumexp)
