"""Constraints of functions of one number, elementwise."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jax import lax
from jaxtyping import Array

from .. import primitives as pp
from ..primitives.arcs import Parameters
from ..primitives.curves import FUNCTIONS, curve
from .constraint import (
    AbstractConstraint,
    Arrays,
    Projected,
    Target,
)
from .registry import ConstraintRule, Movement, Rule, RuleContext, register_projection


@dataclass(frozen=True)
class Scalar(AbstractConstraint):
    """y = f(x), with f named as in `project_scalar`.

    Outside the domain of f the operation has the value at its nearest point (`Curve.extended`).
    """

    function: str
    parameters: Parameters = ()
    kind: ClassVar[str] = "scalar"

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        return curve(self.function, self.parameters).extended(operands[0])

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        return tuple(pp.project_scalar_p.bind(*copies, target, **self._static))

    def project_average(
        self, operands: Arrays, target: Target, constants: Arrays, wanted: Sequence[bool]
    ) -> Projected:
        step, output = pp.displace_scalar_p.bind(*operands, target, **self._static)
        return Projected(output, (step,), pp.squared_norm(step))

    @property
    def steepest(self) -> float | None:
        slope = FUNCTIONS[self.function].steepest
        return None if slope is None else slope(*self.parameters)

    @property
    def _static(self) -> dict[str, Any]:
        return {"function": self.function, "parameters": self.parameters}

    def describe(self) -> str:
        return " ".join([self.function, *(f"{x:g}" for x in self.parameters)])


def _function(name: str) -> Rule:
    return lambda ctx: ConstraintRule(Scalar(name), (0,))


for _name, _row in FUNCTIONS.items():
    if _row.operation is not None:
        register_projection(_row.operation, _function(_name))


def _integer_pow(ctx: RuleContext) -> ConstraintRule | Movement:
    power = ctx.params["y"]
    if power == 1:
        return Movement("bijective")
    if power == 0:
        raise NotImplementedError("the power 0, which is 1 whatever the parameters: write 1")
    return ConstraintRule(Scalar("integer_pow", (float(power),)), (0,))


def _pow(ctx: RuleContext) -> ConstraintRule:
    power = ctx.literals[1]
    if power is None or ctx.constant[0]:
        raise NotImplementedError(
            "a power whose exponent is no number written in the function; "
            "jnp.exp(y * jnp.log(x)) is the same for positive x"
        )
    if power in (0, 1):
        raise NotImplementedError(f"the power {power:g}: leave it out")
    return ConstraintRule(Scalar("pow", (power,)), (0,))


def _clamp(ctx: RuleContext) -> ConstraintRule:
    low, _, high = ctx.literals
    if low is None or high is None:
        raise NotImplementedError(
            "bounds that are no numbers written in the function; use jnp.minimum(jnp.maximum(x, low), high)"
        )
    return ConstraintRule(Scalar("clamp", (low, high)), (1,))


register_projection(pp.scalar_p.primitive, lambda ctx: ConstraintRule(Scalar(**ctx.params), (0,)))
register_projection(lax.integer_pow_p, _integer_pow)
register_projection(lax.pow_p, _pow)
register_projection(lax.clamp_p, _clamp)
