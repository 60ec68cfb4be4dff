"""Constraints of step functions: sign, rounding, quantising, and the choice of the largest entries."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from .. import primitives as pp
from .constraint import AbstractConstraint, Arrays, Target
from .registry import ConstraintRule, register_projection


class AbstractStep(AbstractConstraint):
    """A step function, whose projection moves an input to an edge or not at all."""

    is_step: ClassVar[bool] = True

    @abc.abstractmethod
    def steps_from_edge(self, x: Array) -> Array:
        """The distance to the nearest edge in units of half a step, up to its sign."""


@dataclass(frozen=True)
class Sign(AbstractStep):
    """y = sign(x)."""

    kind: ClassVar[str] = "sign"

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        return jnp.sign(operands[0])

    def steps_from_edge(self, x: Array) -> Array:
        return x

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        return tuple(pp.project_sign_p.bind(*copies, target))


@dataclass(frozen=True)
class Quantize(AbstractStep):
    """y = x rounded to the nearest of equally spaced levels."""

    levels: int
    scale: float
    kind: ClassVar[str] = "quantize"

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        return pp.quantize_p.bind(*operands, levels=self.levels, scale=self.scale)[0]

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        return tuple(pp.project_quantize_p.bind(*copies, target, levels=self.levels, scale=self.scale))

    def steps_from_edge(self, x: Array) -> Array:
        half = self.scale / (self.levels - 1)
        odd = self.levels % 2  # edges are at odd or at even multiples of half a step
        edge = 2 * jnp.round((x / half - odd) / 2) + odd
        return x / half - jnp.clip(edge, 2 - self.levels, self.levels - 2)

    def describe(self) -> str:
        return f"levels={self.levels} scale={self.scale:g}"


@dataclass(frozen=True)
class Round(AbstractStep):
    """y = x rounded to an integer: "round" (ties by `method`), "floor" or "ceil"."""

    function: str
    method: Any = lax.RoundingMethod.TO_NEAREST_EVEN
    kind: ClassVar[str] = "round"

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        if self.function == "round":
            return lax.round(operands[0], self.method)
        return (jnp.floor if self.function == "floor" else jnp.ceil)(operands[0])

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        return tuple(pp.project_round_p.bind(*copies, target, function=self.function))

    def steps_from_edge(self, x: Array) -> Array:
        x = x - 0.5 if self.function == "round" else x
        return 2 * (x - jnp.round(x))

    def describe(self) -> str:
        return self.function


@dataclass(frozen=True)
class TopK(AbstractConstraint):
    """y = 1 for the k largest along the last axis and 0 for the others; k None: `pjp.one_hot_argmax`."""

    k: int | None
    is_step: ClassVar[bool] = True
    kind: ClassVar[str] = "top_k"

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        if self.k is None:
            return pp.one_hot_argmax_p.bind(*operands)[0]
        return pp.top_k_mask_p.bind(*operands, k=self.k)[0]

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        return self.project_output(copies, target, constants)[0]

    def project_output(
        self, copies: Arrays, target: Target, constants: Arrays
    ) -> tuple[Arrays, Array | None]:
        """Ties belong to several choices, so the output is that of the projection, not `evaluate`'s."""
        if self.k is None:
            moved, output = pp.project_one_hot_argmax_p.bind(*copies, target, output=True)
        else:
            moved, output = pp.project_top_k_mask_p.bind(*copies, target, k=self.k, output=True)
        return (moved,), output

    def spanned(self, shapes: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
        return ((len(shapes[0]) - 1,),)

    def describe(self) -> str:
        return "one-hot" if self.k is None else f"k={self.k}"


register_projection(lax.sign_p, lambda ctx: ConstraintRule(Sign(), (0,)))
register_projection(lax.ceil_p, lambda ctx: ConstraintRule(Round("ceil"), (0,)))
register_projection(lax.floor_p, lambda ctx: ConstraintRule(Round("floor"), (0,)))
register_projection(
    lax.round_p, lambda ctx: ConstraintRule(Round("round", ctx.params["rounding_method"]), (0,))
)
register_projection(pp.quantize_p.primitive, lambda ctx: ConstraintRule(Quantize(**ctx.params), (0,)))
register_projection(pp.one_hot_argmax_p.primitive, lambda ctx: ConstraintRule(TopK(None), (0,)))
register_projection(pp.top_k_mask_p.primitive, lambda ctx: ConstraintRule(TopK(ctx.params["k"]), (0,)))
