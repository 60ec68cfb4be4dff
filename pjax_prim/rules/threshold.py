"""Threshold neurons: one constraint for each output."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .. import primitives as pp
from ..primitives.threshold import threshold_margin
from .constraint import AbstractConstraint, Arrays, Target
from .registry import ConstraintRule, RuleContext, register_projection


@dataclass(frozen=True)
class ThresholdDot(AbstractConstraint):
    """y = sign(W x), y (w . x) >= sqrt(n / sigma) for each row w.

    W is (G, M, N), x is (G, N), for any leading axes G that broadcast together, and y (G, M). Every output
    has its own copies of a row and of the inputs: both are (G, M, N).
    """

    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    sigma: float
    is_step: ClassVar[bool] = True
    takes_labels: ClassVar[bool] = True
    kind: ClassVar[str] = "threshold_dot"

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        return pp.threshold_dot_p.bind(*operands, sigma=self.sigma)[0]

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        return self.project_output(copies, target, constants)[0]

    def project_output(
        self, copies: Arrays, target: Target, constants: Arrays
    ) -> tuple[Arrays, Array | None]:
        margin = threshold_margin(copies[0].shape[-1], self.sigma)
        w, x, y = pp.project_threshold_dot_p.bind(*copies, target, margin=margin)
        return (w, x), y

    def multiplicity(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        w, x = shapes
        rows = math.prod(_leading(w, x))  # 0 along an empty batch axis
        return rows // max(math.prod(w[:-2]), 1), rows * w[-2] // max(math.prod(x[:-1]), 1)

    def expand(self, operands: Arrays) -> Arrays:
        w, x = operands
        shape = (*_leading(w.shape, x.shape), *w.shape[-2:])
        return jnp.broadcast_to(w, shape), jnp.broadcast_to(x[..., None, :], shape)

    def average(self, copies: Arrays) -> Arrays:
        w, x = copies
        leading_w, leading_x = self.shapes[0][:-2], self.shapes[1][:-1]
        return _mean_to(w, leading_w), _mean_to(jnp.mean(x, -2), leading_x)

    def evaluate(self, copies: Arrays, constants: Arrays) -> Array:
        w, x = copies
        return self.forward((w[..., None, :], x), constants)[..., 0]

    def elements(self, copies: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        return copies[0][:-1]

    def spanned(self, shapes: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
        axis = len(shapes[0]) - 1
        return (axis,), (axis,)

    def describe(self) -> str:
        return f"sigma={self.sigma:g}"


def _leading(w: tuple[int, ...], x: tuple[int, ...]) -> tuple[int, ...]:
    return np.broadcast_shapes(w[:-2], x[:-1])


def _mean_to(array: Array, leading: tuple[int, ...]) -> Array:
    """The mean over the leading axes where an operand is broadcast: its own size there is 1."""
    axes = tuple(i for i, size in enumerate(leading) if size != array.shape[i])
    count = math.prod(array.shape[i] for i in axes)
    return jnp.sum(array, axes, keepdims=True) / max(count, 1)


def _threshold_dot(ctx: RuleContext) -> ConstraintRule:
    w, x = (tuple(operand.shape) for operand in ctx.inputs)
    return ConstraintRule(ThresholdDot((w, x), ctx.params["sigma"]), (0, 1))


register_projection(pp.threshold_dot_p.primitive, _threshold_dot)
