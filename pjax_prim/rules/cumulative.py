"""Constraints of cumulative sums."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from .. import primitives as pp
from ..primitives import squared_norm
from .constraint import AbstractConstraint, Arrays, Projected, Target
from .registry import ConstraintRule, RuleContext, register_projection


@dataclass(frozen=True)
class CumulativeSum(AbstractConstraint):
    """y = cumulative sum of x along an axis, from its end with `reverse`."""

    axis: int
    reverse: bool
    kind: ClassVar[str] = "cumsum"

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        return lax.cumsum(operands[0], self.axis, reverse=self.reverse)

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        (x,) = copies
        step, _ = self._displace(target - self.forward(copies, constants))
        return (x + step,)

    def project_average(
        self, operands: Arrays, target: Target, constants: Arrays, wanted: Sequence[bool]
    ) -> Projected:
        total = self.forward(operands, constants)
        step, change = self._displace(target - total)
        return Projected(total + change, (step,), squared_norm(step))

    def _displace(self, residual: Array) -> Arrays:
        """The projection of inputs and outputs, by the primitive along the last axis."""

        def turn(x: Array) -> Array:
            return jnp.flip(x, self.axis) if self.reverse else x

        results = pp.displace_cumsum_p.bind(jnp.moveaxis(turn(residual), self.axis, -1))
        return tuple(turn(jnp.moveaxis(x, -1, self.axis)) for x in results)

    def describe(self) -> str:
        return f"axis={self.axis}" + (" reverse" if self.reverse else "")


def _cumsum(ctx: RuleContext) -> ConstraintRule:
    return ConstraintRule(CumulativeSum(int(ctx.params["axis"]), bool(ctx.params["reverse"])), (0,))


register_projection(lax.cumsum_p, _cumsum)
