"""The linear constraint: one dot product per output element of a `dot_general`."""

import math
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array

from .. import primitives as pp
from ..primitives._arguments import compute_dtype
from ..primitives.dot import row_dot
from .constraint import (
    AbstractConstraint,
    Arrays,
    Number,
    Projected,
    Reflection,
    Target,
    WeightedConstraint,
    weight_operands,
)
from .registry import ConstraintRule, RuleContext, register_projection

divided: ContextVar[bool] = ContextVar("divided", default=False)
"""Whether operands are divided over devices, where no copies may be formed; set by the problem."""

layout: ContextVar[Any] = ContextVar("layout", default=None)
"""How products are formed over devices (`primitives.linear.Layout`), if not as usual; set by the problem."""


@dataclass(frozen=True)
class Linear(WeightedConstraint):
    """y = dot_general(a, b), any contraction, any batch axes.

    In canonical form `a` is (G, P, K), `b` is (G, Q, K) and the output (G, P, Q): G the batch
    axes, K the contracted ones. Every output element has its own copy of a row of `a` and of
    a row of `b`, so that the copies of both are (G, P, Q, K).

    **Arguments:** `shapes` of the operands; `dimensions` as in `jax.lax.dot_general`;
    `precision` and `output_dtype` of the traced product; `operand_dtype`, what the operands
    are rounded to in products (None: as they are).
    """

    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    dimensions: tuple[tuple[tuple[int, ...], tuple[int, ...]], tuple[tuple[int, ...], tuple[int, ...]]]
    precision: Any = None
    output_dtype: Any = None
    operand_dtype: Any = None
    kind: ClassVar[str] = "linear"

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        a, b = operands
        return lax.dot_general(
            a.astype(self.operand_dtype or a.dtype),
            b.astype(self.operand_dtype or b.dtype),
            self.dimensions,
            precision=self.precision,
            preferred_element_type=self._output_dtype(a, b),
        )

    def multiplicity(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        return math.prod(self._free_sizes(1)), math.prod(self._free_sizes(0))

    def spanned(self, shapes: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
        return (3,), (3,)

    def expand(self, operands: Arrays) -> Arrays:
        a, b = self._canonical(operands)
        shape = (*a.shape[:2], *b.shape[1:])
        return jnp.broadcast_to(a[:, :, None], shape), jnp.broadcast_to(b[:, None], shape)

    def average(self, copies: Arrays) -> Arrays:
        a, b = copies
        return self._original(jnp.mean(a, 2), 0), self._original(pp.mean_rows_p.bind(b)[0], 1)

    def evaluate(self, copies: Arrays, constants: Arrays) -> Array:
        a, b = copies
        wide = jnp.promote_types(a.dtype, jnp.float32)
        output = row_dot(a.astype(wide), b.astype(wide))
        return self._output(output).astype(self._output_dtype(a, b))

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        a, b = copies
        z = target.reshape(a.shape[:3])
        if self.weights is None:
            return tuple(pp.project_dot_p.bind(a, b, z))
        # In a / sqrt(v) and b / sqrt(u) it is the unweighted one times u v.
        root_u, root_v = map(jnp.sqrt, self.weights)
        new_a, new_b = pp.project_dot_p.bind(a / root_v, b / root_u, z / (root_u * root_v))
        return new_a * root_v, new_b * root_u

    def held(self, copies: Arrays, target: Array) -> Arrays | None:
        if self.weights is not None:
            return None
        return tuple(pp.displace_dot_p.bind(*copies, target.reshape(copies[0].shape[:3])))

    def reflection(self, copies: Arrays, target: Target, constants: Arrays, held: Any = None) -> Reflection:
        if held is None:
            return super().reflection(copies, target, constants)
        *solved, output, mean_a, mean_b = held

        def means() -> Arrays:
            return self._original(mean_a, 0), self._original(mean_b, 1)

        def leave(
            operands: Arrays, relaxation: Number, target: Callable[[], Array]
        ) -> tuple[Arrays, Array, Arrays]:
            a, b = self._canonical(operands)
            new_a, new_b, squared, *held = pp.leave_dot_p.bind(
                *copies,
                a[:, :, None],
                b[:, None],
                *solved,
                target().reshape(copies[0].shape[:3]),
                _scalar(relaxation, copies[0]),
            )
            return (new_a, new_b), jnp.sum(squared), tuple(held)

        return Reflection(self._output(output).astype(self._output_dtype(*copies)), means, leave)

    def reflect(
        self,
        copies: Arrays,
        operands: Arrays,
        target: Target,
        constants: Arrays,
        relaxation: Number,
    ) -> tuple[Arrays, Array | None, Array, Arrays]:
        if self.weights is not None:
            return super().reflect(copies, operands, target, constants, relaxation)
        a, b = self._canonical(operands)
        new_a, new_b, output, moved, *means = pp.reflect_dot_p.bind(
            *copies,
            a[:, :, None],
            b[:, None],
            target.reshape(copies[0].shape[:3]),
            _scalar(relaxation, copies[0]),
        )
        output = self._output(output).astype(self._output_dtype(a, b))
        averages = tuple(self._original(mean, side) for side, mean in enumerate(means))
        return (new_a, new_b), output, jnp.sum(moved), averages

    def project_average(
        self, operands: Arrays, target: Target, constants: Arrays, wanted: Sequence[bool]
    ) -> Projected:
        """Three matrix products and one elementwise solve (`primitives.linear`), no copies."""
        return self._projected(operands, target, wanted)

    def _by_side(self, found: Sequence[Array], wanted: Sequence[bool]) -> tuple[Array | None, ...]:
        """Results for the operands wanted, in these operands' shapes; None for the others."""
        rest = iter(found)
        return tuple(self._original(next(rest), side) if want else None for side, want in enumerate(wanted))

    def _projected(
        self,
        operands: Arrays,
        target: Array,
        wanted: Sequence[bool],
    ) -> Projected:
        """The settings are those of `primitives.linear`."""
        a, b = self._canonical(operands)
        output, *results, moved, scatter = pp.project_linear_p.bind(
            a,
            b,
            target.reshape(*a.shape[:2], b.shape[1]),
            *weight_operands(self.weights, (1,)),
            wanted=tuple(wanted),
            precision=self.precision,
            operand_dtype=self.operand_dtype or jnp.result_type(a, b),
            scatter="sums" if divided.get() else "formed",
            **({} if layout.get() is None else {"layout": layout.get()}),
        )
        output = self._output(output).astype(self._output_dtype(a, b))
        return Projected(output, self._by_side(results, wanted), jnp.sum(moved), jnp.sum(scatter))

    def describe(self) -> str:
        a, b = self._letters()
        return f"{a},{b}"

    def _output_dtype(self, a: Array, b: Array) -> Any:
        dtype = jnp.result_type(a, b)
        return dtype if self.output_dtype is None else jnp.promote_types(dtype, self.output_dtype)

    def axes(self, side: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Batch, free and contracted axes of an operand."""
        contracted, batch = self.dimensions[0][side], self.dimensions[1][side]
        free = (i for i in range(len(self.shapes[side])) if i not in contracted + batch)
        return batch, tuple(free), contracted

    def original_spec(self, entries: Sequence[Any], side: int) -> PartitionSpec:
        """The entries for the axes of an operand in canonical form as a spec of its own axes: of several axes
        that are one there the first is divided."""
        found: dict[int, Any] = {}
        for axes, entry in zip(self.axes(side), entries, strict=True):
            if axes and entry:
                found[axes[0]] = entry
        return PartitionSpec(*(found.get(axis) for axis in range(len(self.shapes[side]))))

    def _free_sizes(self, side: int) -> tuple[int, ...]:
        return tuple(self.shapes[side][axis] for axis in self.axes(side)[1])

    def _canonical(self, operands: Arrays) -> Arrays:
        """The operands as (G, P, K) and (G, Q, K)."""
        return tuple(
            jnp.transpose(x, sum(axes, ())).reshape(
                *(math.prod(x.shape[axis] for axis in group) for group in axes)
            )
            for x, axes in ((x, self.axes(side)) for side, x in enumerate(operands))
        )

    def _original(self, x: Array, side: int) -> Array:
        """The inverse of `_canonical` for one operand."""
        order = sum(self.axes(side), ())
        shape = tuple(self.shapes[side][axis] for axis in order)
        return jnp.transpose(x.reshape(shape), tuple(order.index(i) for i in range(len(order))))

    def _output(self, x: Array) -> Array:
        """(G, P, Q) in the shape of the product."""
        batch = tuple(self.shapes[0][axis] for axis in self.dimensions[1][0])
        return x.reshape(*batch, *self._free_sizes(0), *self._free_sizes(1))

    def _letters(self) -> tuple[str, str]:
        names = iter("abcdefghijklmnopqrstuvwxyz")
        left = {axis: next(names) for axis in range(len(self.shapes[0]))}
        shared = {
            b: left[a]
            for side in (0, 1)
            for a, b in zip(self.dimensions[side][0], self.dimensions[side][1], strict=True)
        }
        right = [shared.get(axis) or next(names) for axis in range(len(self.shapes[1]))]
        return "".join(left.values()), "".join(right)


@dataclass(frozen=True)
class EmptyLinear(Linear):
    """A product that contracts an empty axis, which is zero: its operands have no element to move."""

    project_average = AbstractConstraint.project_average
    reflection = AbstractConstraint.reflection
    reflect = AbstractConstraint.reflect

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        return copies

    def held(self, copies: Arrays, target: Array) -> None:
        return None


def _scalar(number: Number, copies: Array) -> Array:
    """A number with the axes of what there is one of for each copy."""
    return jnp.asarray(number, compute_dtype(copies.dtype)).reshape(1, 1, 1)


def _dot_general(ctx: RuleContext) -> ConstraintRule:
    contracted, batch = (
        (tuple(map(int, left)), tuple(map(int, right))) for left, right in ctx.params["dimension_numbers"]
    )
    dimensions = contracted, batch
    shapes = tuple(ctx.inputs[0].shape), tuple(ctx.inputs[1].shape)
    empty = math.prod(shapes[0][axis] for axis in dimensions[0][0]) == 0
    dtype = jnp.result_type(*(x.dtype for x in ctx.inputs))
    constraint = (EmptyLinear if empty else Linear)(
        shapes,
        dimensions,
        ctx.params["precision"],
        ctx.outputs[0].dtype,
        None if compute_dtype(dtype) == dtype else dtype,
    )
    return ConstraintRule(constraint, (0, 1))


register_projection(lax.dot_general_p, _dot_general)
