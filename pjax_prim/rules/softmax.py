"""Softmax as one constraint."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array

from .. import primitives as pp
from .constraint import Arrays, Target
from .reductions import Reduction
from .registry import ConstraintRule, RuleContext, register_projection


@dataclass(frozen=True)
class Softmax(Reduction):
    """y = exp(x) / sum exp(x) over axes."""

    kind: ClassVar[str] = "softmax"

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        axes = tuple(axis - operands[0].ndim for axis in self.axes)
        return pp.softmax_p.bind(*operands, axes=axes)[0]

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        (x,) = copies
        (moved,) = pp.project_softmax_p.bind(self.rows(x), self.rows(target))
        return (self.unrows(moved, x.shape),)


def _softmax(ctx: RuleContext) -> ConstraintRule:
    ndim = len(ctx.inputs[0].shape)
    return ConstraintRule(Softmax(tuple(axis % ndim for axis in ctx.params["axes"])), (0,))


register_projection(pp.softmax_p.primitive, _softmax)
