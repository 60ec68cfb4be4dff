"""The convolution constraint: one dot product, of a patch and a filter, per output element."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from .. import primitives as pp
from ..primitives._arguments import compute_dtype
from ..primitives._window import Window
from .constraint import (
    Arrays,
    Count,
    Number,
    Projected,
    Reflection,
    Target,
    WeightedConstraint,
    weight_operands,
)
from .linear import Linear
from .registry import ConstraintRule, RuleContext, register_projection


@dataclass(frozen=True)
class Convolution(WeightedConstraint):
    """y = conv_general_dilated(a, b) with any parameters.

    Every output element has its own copy of a patch of `a` and of a filter of `b`: with G groups of
    Q output channels, P batch elements times positions, and K elements in a filter, the copies of
    both are (G, Q, P, K). Zeros of the padding and holes of dilation have copies as other
    constants have. An element of `a` that no patch contains has none.

    **Arguments:** `shapes` of the operands; `window`, how the filter slides; `dimensions`,
    `precision` and `output_dtype` of the traced convolution; `operand_dtype`, what the operands are
    rounded to in products (None: as they are).
    """

    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    window: Window
    dimensions: lax.ConvDimensionNumbers
    precision: Any = None
    output_dtype: Any = None
    operand_dtype: Any = None
    kind: ClassVar[str] = "convolution"

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        lhs, rhs = (x.astype(self.operand_dtype or x.dtype) for x in self._channels_first(operands))
        (output,) = pp.convolve_p.bind(
            lhs,
            rhs,
            window=self.window,
            precision=self.precision,
            output_dtype=self._output_dtype(*operands),
        )
        return jnp.transpose(output, inverse(self.dimensions.out_spec))

    def multiplicity(self, shapes: Sequence[tuple[int, ...]]) -> tuple[Count, ...]:
        batch, channels, *positions = self._output_shape
        sizes = permuted(shapes[0], self.dimensions.lhs_spec)[2:]
        counts = self.window.counts(sizes)[None, None] * (channels // self.window.groups)
        return np.transpose(counts, inverse(self.dimensions.lhs_spec)), batch * math.prod(positions)

    def spanned(self, shapes: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
        return self._dot.spanned(shapes)

    def expand(self, operands: Arrays) -> Arrays:
        return self._dot.expand(self._rows(operands))[::-1]

    def average(self, copies: Arrays) -> Arrays:
        return self._unrows(self._dot.average(copies[::-1]))

    def evaluate(self, copies: Arrays, constants: Arrays) -> Array:
        return self._output(self._dot.evaluate(copies[::-1], constants))

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        return self._dot.project(copies[::-1], self._row_target(target), constants)[::-1]

    def held(self, copies: Arrays, target: Array) -> Arrays | None:
        return self._dot.held(copies[::-1], self._row_target(target))

    def reflection(self, copies: Arrays, target: Target, constants: Arrays, held: Any = None) -> Reflection:
        if held is None:
            return super().reflection(copies, target, constants)
        inner = self._dot.reflection(copies[::-1], self._row_target(target), constants, held)
        assert inner.output is not None

        def leave(
            operands: Arrays, relaxation: Number, target: Callable[[], Array]
        ) -> tuple[Arrays, Array, Any]:
            moved, squared, held = inner.leave(
                self._rows(operands), relaxation, lambda: self._row_target(target())
            )
            return moved[::-1], squared, held

        return Reflection(self._output(inner.output), lambda: self._unrows(inner.means()), leave)

    def reflect(
        self,
        copies: Arrays,
        operands: Arrays,
        target: Target,
        constants: Arrays,
        relaxation: Number,
    ) -> tuple[Arrays, Array | None, Array, Arrays]:
        moved, output, squared, averages = self._dot.reflect(
            copies[::-1], self._rows(operands), self._row_target(target), constants, relaxation
        )
        assert output is not None
        return moved[::-1], self._output(output), squared, self._unrows(averages)

    def project_average(
        self, operands: Arrays, target: Target, constants: Arrays, wanted: Sequence[bool]
    ) -> Projected:
        """Three convolutions and one elementwise solve (`primitives.convolution`), no copies."""
        return self._projected(operands, target, wanted)

    def _projected(
        self,
        operands: Arrays,
        target: Array,
        wanted: Sequence[bool],
    ) -> Projected:
        """The settings are those of `primitives.convolution`."""
        lhs, rhs = self._channels_first(operands)
        output, *results, moved = pp.project_convolution_p.bind(
            lhs,
            rhs,
            jnp.transpose(target, self.dimensions.out_spec),
            *weight_operands(self.weights, ()),
            window=self.window,
            wanted=tuple(wanted),
            precision=self.precision,
            operand_dtype=self.operand_dtype or jnp.result_type(lhs, rhs),
        )
        displacements: list[Array | None] = [None, None]
        for side, array in zip((i for i in (0, 1) if wanted[i]), results, strict=True):
            displacements[side] = jnp.transpose(array, inverse(self._specs[side]))
        output = jnp.transpose(output, inverse(self.dimensions.out_spec))
        output = output.astype(self._output_dtype(lhs, rhs))
        scatter = self.scatter_of_means(operands, displacements, moved)
        return Projected(output, tuple(displacements), moved, scatter)

    def describe(self) -> str:
        window = self.window
        words = ["x".join(map(str, window.kernel))]
        for name, value, default in (
            ("stride", window.strides, 1),
            ("lhs_dilation", window.lhs_dilation, 1),
            ("rhs_dilation", window.rhs_dilation, 1),
        ):
            if any(step != default for step in value):
                words.append(f"{name} {'x'.join(map(str, value))}")
        if len({*sum(window.padding, ())}) > 1:
            words.append("padding " + " ".join(f"{low},{high}" for low, high in window.padding))
        elif any(low for low, _ in window.padding):
            words.append(f"padding {window.padding[0][0]}")
        for name, groups in (
            ("feature groups", window.feature_groups),
            ("batch groups", window.batch_groups),
        ):
            if groups > 1:
                words.append(f"{groups} {name}")
        return ", ".join(words)

    def _output_dtype(self, lhs: Array, rhs: Array) -> Any:
        dtype = jnp.result_type(lhs, rhs)
        return dtype if self.output_dtype is None else jnp.promote_types(dtype, self.output_dtype)

    @property
    def _specs(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return tuple(self.dimensions.lhs_spec), tuple(self.dimensions.rhs_spec)

    @cached_property
    def _output_shape(self) -> tuple[int, ...]:
        """Channels-first."""
        operands = tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in self.shapes)
        output = jax.eval_shape(lambda *x: self.forward(x, ()), *operands)
        return permuted(output.shape, self.dimensions.out_spec)

    @cached_property
    def _dot(self) -> Linear:
        """The dot products of filters (G, Q, K) and patches (G, P, K).

        In this order, because it decides which of many nearest points a degenerate projection
        returns, and filters come first in `primitives.convolution` too.
        """
        batch, channels, *positions = self._output_shape
        groups = self.window.groups
        size = self.window.size * self.shapes[1][self.dimensions.rhs_spec[1]]
        return Linear(
            ((groups, channels // groups, size), (groups, batch * math.prod(positions), size)),
            (((2,), (2,)), ((0,), (0,))),
            self.precision,
            self.output_dtype,
            self.operand_dtype,
            weights=None if self.weights is None else self.weights[::-1],
        )

    def _channels_first(self, operands: Arrays) -> Arrays:
        return tuple(jnp.transpose(x, spec) for x, spec in zip(operands, self._specs, strict=True))

    def _patch_rows(self, lhs: Array) -> Array:
        """Patches of the left operand, channels-first, as (G, P, K)."""
        patches = self.window.patches(self.window.grouped(lhs))  # (N, G, C, *positions, size)
        return jnp.moveaxis(patches, (1, 2), (0, -2)).reshape(self._dot.shapes[1])

    def _rows(self, operands: Arrays) -> Arrays:
        """Filters and patches, the operands of `_dot`."""
        lhs, rhs = self._channels_first(operands)
        return rhs.reshape(self._dot.shapes[0]), self._patch_rows(lhs)

    def _unrows(self, rows: Arrays) -> Arrays:
        """The mean over patches and filters of rows, in the operands' shapes; 0 where none is."""
        filters, patches = rows
        lhs_shape, rhs_shape = (
            permuted(shape, spec) for shape, spec in zip(self.shapes, self._specs, strict=True)
        )
        (total,) = jax.linear_transpose(self._patch_rows, jax.ShapeDtypeStruct(lhs_shape, patches.dtype))(
            patches
        )
        counts = np.maximum(self.window.counts(lhs_shape[2:]), 1)
        means = total / counts.astype(total.dtype), filters.reshape(rhs_shape)
        return tuple(jnp.transpose(x, inverse(spec)) for x, spec in zip(means, self._specs, strict=True))

    def _row_target(self, target: Target) -> Array:
        """A value of the output's shape as (G, Q, P)."""
        groups, channels, _ = self._dot.shapes[0]
        batch = self._output_shape[0]
        split = jnp.transpose(target, self.dimensions.out_spec).reshape(batch, groups, channels, -1)
        return jnp.moveaxis(split, 0, 2).reshape(groups, channels, -1)

    def _output(self, rows: Array) -> Array:
        """The inverse of `_row_target`."""
        y = rows.reshape(*rows.shape[:2], self._output_shape[0], -1)
        y = jnp.moveaxis(y, 2, 0).reshape(self._output_shape)
        return jnp.transpose(y, inverse(self.dimensions.out_spec))


def inverse(permutation: Sequence[int]) -> tuple[int, ...]:
    return tuple(permutation.index(i) for i in range(len(permutation)))


def permuted(shape: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in axes)


def window_of(params: dict[str, Any], kernel: Sequence[int]) -> Window:
    """How the filter of a `conv_general_dilated` with these parameters slides."""
    return Window(
        tuple(kernel),
        tuple(params["window_strides"]),
        tuple((int(low), int(high)) for low, high in params["padding"]),
        tuple(params["lhs_dilation"]),
        tuple(params["rhs_dilation"]),
        params["feature_group_count"],
        params["batch_group_count"],
    )


def _convolution(ctx: RuleContext) -> ConstraintRule:
    shapes = tuple(ctx.inputs[0].shape), tuple(ctx.inputs[1].shape)
    params = ctx.params
    dimensions = params["dimension_numbers"]
    kernel = tuple(shapes[1][axis] for axis in dimensions.rhs_spec[2:])
    if math.prod(kernel) * shapes[1][dimensions.rhs_spec[1]] == 0:
        raise NotImplementedError(f"a convolution with an empty filter (shapes {shapes})")
    if math.prod(ctx.outputs[0].shape) == 0:
        raise NotImplementedError(f"a convolution without output (shapes {shapes})")
    window = window_of(params, kernel)
    dtype = jnp.result_type(*(x.dtype for x in ctx.inputs))
    constraint = Convolution(
        shapes,
        window,
        dimensions,
        params["precision"],
        ctx.outputs[0].dtype,
        None if compute_dtype(dtype) == dtype else dtype,
    )
    return ConstraintRule(constraint, (0, 1))


register_projection(lax.conv_general_dilated_p, _convolution)
