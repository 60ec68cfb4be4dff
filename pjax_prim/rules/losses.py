"""Losses: conditions on outputs, where constraint graphs end."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array

from .. import primitives as pp
from ..errors import GraphError
from ..primitives.cross_entropy import displace_slightly
from .constraint import AbstractConstraint, Arrays, Target
from .registry import ConstraintRule, Rule, RuleContext, register_projection


@dataclass(frozen=True)
class Loss(AbstractConstraint):
    """An output condition, or the proximal operator of a loss.

    **Arguments:** `name` of the loss; `static` parameters of its primitives, as sorted pairs.
    """

    name: str
    static: tuple[tuple[str, float], ...] = ()
    kind: ClassVar[str] = "loss"
    is_loss: ClassVar[bool] = True

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        return _LOSSES[self.name][0].bind(*operands, *constants, **dict(self.static))[0]

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        return tuple(_LOSSES[self.name][1].bind(*copies, *constants, **dict(self.static)))

    def weighted(self, weights: tuple[float, ...]) -> AbstractConstraint:
        """A proximal step lam in a distance of weight w is one of lam / w."""
        static = tuple((key, value / weights[0] if key == "lam" else value) for key, value in self.static)
        return replace(self, static=static, weights=weights)

    def pull(self, operands: Arrays, constants: Arrays, lam: float) -> Array:
        """By how much the proximal operator with step `lam` moves the operand.

        Of a condition (margin, equality) it is that of half the squared distance from its set. For
        small steps this is minus `lam` times the gradient.
        """
        (x,), (labels,) = operands, constants
        if self.name == "cross_entropy" and lam**2 <= jnp.finfo(x.dtype).eps:
            # A step so small is its first order, up to half of the digits.
            return displace_slightly(x, labels, lam)
        if self.name == "cross_entropy":
            return pp.displace_cross_entropy_p.bind(x, labels, lam=lam)[0]
        if self.name == "squared_error":
            return (labels - x) * (lam / (1 + lam))
        (projected,) = self.project(operands, None, constants)
        return (projected - x) * (lam / (1 + lam))

    def spanned(self, shapes: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
        return ((len(shapes[0]) - 1,),) if self.name in CLASSIFICATION else ((),)

    def describe(self) -> str:
        return " ".join([self.name, *(f"{key}={value:g}" for key, value in self.static)])


_LOSSES = {
    "margin": (pp.margin_loss_p, pp.project_margin_p),
    "cross_entropy": (pp.cross_entropy_p, pp.prox_cross_entropy_p),
    "squared_error": (pp.squared_error_p, pp.prox_squared_error_p),
    "equality": (pp.equality_p, pp.project_equality_p),
}
"""For each loss the operation and the projection; both take (outputs, labels)."""

CLASSIFICATION = ("margin", "cross_entropy")
"""Losses whose labels are one-hot."""


def _loss(name: str) -> Rule:
    def rule(ctx: RuleContext) -> ConstraintRule:
        if not ctx.constant[1]:
            raise GraphError(f"loss {name!r}: the labels depend on a parameter; they must be data")
        return ConstraintRule(Loss(name, tuple(sorted(ctx.params.items()))), (0,), (1,))

    return rule


for _name, (_operation, _) in _LOSSES.items():
    register_projection(_operation.primitive, _loss(_name), loss=True)
