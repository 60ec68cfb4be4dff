"""Constraints of reductions over axes: sums and extrema."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from .. import primitives as pp
from ..primitives import squared_norm
from ..primitives._arguments import compute_dtype
from .constraint import AbstractConstraint, Arrays, Number, Projected, Target
from .registry import ConstraintRule, Movement, Rule, RuleContext, register_projection


@dataclass(frozen=True)
class Reduction(AbstractConstraint):
    """A constraint over some axes of its one operand."""

    axes: tuple[int, ...]

    def spanned(self, shapes: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
        return (self.axes,)

    def rows(self, x: Array) -> Array:
        """`x` with the reduced axes last, as one."""
        last = tuple(range(x.ndim - len(self.axes), x.ndim))
        moved = jnp.moveaxis(x, self.axes, last)
        return moved.reshape(*moved.shape[: x.ndim - len(self.axes)], -1)

    def unrows(self, rows: Array, shape: tuple[int, ...]) -> Array:
        last = tuple(range(len(shape) - len(self.axes), len(shape)))
        sizes = tuple(shape[axis] for axis in self.axes)
        return jnp.moveaxis(rows.reshape(*rows.shape[:-1], *sizes), last, self.axes)

    def from_last(self, ndim: int) -> tuple[int, ...]:
        """The axes as operations of this library count them, from the last one, -1."""
        return tuple(axis - ndim for axis in self.axes)

    def describe(self) -> str:
        return f"axes={self.axes}"


def axes_of(ctx: RuleContext) -> tuple[int, ...]:
    """The axes of an operation of this library, counted from the first one."""
    ndim = len(ctx.inputs[0].shape)
    return tuple(axis % ndim for axis in ctx.params["axes"])


@dataclass(frozen=True)
class ReduceSum(Reduction):
    """y = sum of x over axes."""

    kind: ClassVar[str] = "reduce_sum"

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        return jnp.sum(operands[0], self.axes)

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        if self.weights is not None:
            (moved,) = self.project_average(copies, target, constants, (True,)).displacements
            assert moved is not None
            return (copies[0] + moved,)
        (moved,) = pp.project_sum_p.bind(self.rows(copies[0]), target)
        return (self.unrows(moved, copies[0].shape),)

    def weighted(self, weights: tuple[Number, ...]) -> AbstractConstraint:
        return replace(self, weights=weights)

    def project_average(
        self, operands: Arrays, target: Target, constants: Arrays, wanted: Sequence[bool]
    ) -> Projected:
        (x,) = operands
        total = self.forward(operands, constants)
        count = math.prod(x.shape[axis] for axis in self.axes)
        if self.weights is None:
            (step,) = pp.displace_sum_p.bind(total, target, inputs=count)
            moved = squared_norm(step, count)
        else:
            # As if there were count / w of them, which move by d / w.
            (weight,) = self.weights
            number = jnp.full_like(total, count / weight, dtype=compute_dtype(total.dtype))
            (step,) = pp.displace_sum_p.bind(total, target, number)
            step = step / weight
            moved = weight * squared_norm(step, count)
        displacement = jnp.broadcast_to(jnp.expand_dims(step, self.axes), x.shape)
        return Projected(total + count * step, (displacement,), moved)


@dataclass(frozen=True)
class ReduceMax(Reduction):
    """y = max of x over axes, or min with `negate`."""

    negate: bool = False
    kind: ClassVar[str] = "reduce_max"

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        return (jnp.min if self.negate else jnp.max)(operands[0], self.axes)

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        rows = self.rows(copies[0])
        if self.negate:
            (moved,) = pp.project_max_p.bind(-rows, -target)
            moved = -moved
        else:
            (moved,) = pp.project_max_p.bind(rows, target)
        return (self.unrows(moved, copies[0].shape),)

    def project_average(
        self, operands: Arrays, target: Target, constants: Arrays, wanted: Sequence[bool]
    ) -> Projected:
        (x,) = operands
        sign = -1 if self.negate else 1
        step, output, moved = pp.displace_max_p.bind(sign * self.rows(x), sign * target)
        return Projected(sign * output, (sign * self.unrows(step, x.shape),), jnp.sum(moved))

    def describe(self) -> str:
        return f"{'min' if self.negate else 'max'} axes={self.axes}"


def _reduce(make: Callable[[tuple[int, ...]], AbstractConstraint]) -> Rule:
    def rule(ctx: RuleContext) -> ConstraintRule:
        axes = tuple(int(axis) for axis in ctx.params["axes"])
        if math.prod(ctx.inputs[0].shape[axis] for axis in axes) == 0:
            raise NotImplementedError(f"a reduction over {axes} of shape {ctx.inputs[0].shape}")
        return ConstraintRule(make(axes), (0,))

    return rule


def _collective(reduction: Rule) -> Rule:
    """The rule of `jax.lax.psum` and the like inside `jax.vmap`, which leaves them the axes it maps over."""

    def rule(ctx: RuleContext) -> ConstraintRule | Movement:
        named = [axis for axis in ctx.params["axes"] if not isinstance(axis, int)]
        if named:
            raise NotImplementedError(f"the axis {named[0]!r} of a mesh, only those of jax.vmap")
        if ctx.params["axis_index_groups"] is not None:
            raise NotImplementedError("axis_index_groups")
        return reduction(ctx)

    return rule


_SUM = _reduce(ReduceSum)
_MAX = _reduce(ReduceMax)
_MIN = _reduce(lambda axes: ReduceMax(axes, negate=True))
for _primitive, _rule in (
    (lax.reduce_sum_p, _SUM),
    (lax.reduce_max_p, _MAX),
    (lax.reduce_min_p, _MIN),
    (lax.psum_p, _collective(_SUM)),
    (lax.pmax_p, _collective(_MAX)),
    (lax.pmin_p, _collective(_MIN)),
):
    register_projection(_primitive, _rule)
