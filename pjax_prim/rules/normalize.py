"""Layer norms as one constraint."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Array

from .. import primitives as pp
from .constraint import Arrays, Target
from .reductions import Reduction, axes_of
from .registry import ConstraintRule, RuleContext, register_projection


@dataclass(frozen=True)
class Normalize(Reduction):
    """y = t / sqrt(mean t^2 + eps) over axes, t = x or, with `center`, x - mean x."""

    eps: float
    center: bool
    kind: ClassVar[str] = "normalize"

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        axes = self.from_last(operands[0].ndim)
        return pp.normalize_p.bind(*operands, axes=axes, **self._static)[0]

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        (x,) = copies
        (moved,) = pp.project_normalize_p.bind(self.rows(x), self.rows(target), **self._static)
        return (self.unrows(moved, x.shape),)

    @property
    def _static(self) -> dict[str, Any]:
        return {"eps": self.eps, "center": self.center}

    def describe(self) -> str:
        return f"axes={self.axes} eps={self.eps:g}" + (" center" if self.center else "")


def _normalize(ctx: RuleContext) -> ConstraintRule:
    return ConstraintRule(Normalize(axes_of(ctx), ctx.params["eps"], ctx.params["center"]), (0,))


register_projection(pp.normalize_p.primitive, _normalize)
