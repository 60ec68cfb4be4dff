"""Constraints of reductions over sliding windows: sums (average pooling) and extrema (max pooling)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from .. import primitives as pp
from .constraint import AbstractConstraint, Arrays, Count, Projected, Target
from .registry import ConstraintRule, Rule, RuleContext, register_projection


@dataclass(frozen=True)
class WindowReduction(AbstractConstraint):
    """y = sum, max or min of x over windows.

    Every output element has its own copy of its window: with P windows of K elements over the axes that
    windows slide along, the copies are (other axes, P, K). Places of a window in the padding have a
    copy too, which stays 0 and counts nowhere.

    **Arguments:** `reduction`, "sum", "max" or "min"; `shape` of x; the others as in
    `jax.lax.reduce_window`.
    """

    reduction: str
    shape: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    kind: ClassVar[str] = "pool"

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        (x,) = operands
        start, operation = {
            "sum": (0.0, lax.add), "max": (-jnp.inf, lax.max), "min": (jnp.inf, lax.min)
        }[self.reduction]  # fmt: skip
        return lax.reduce_window(
            x, np.asarray(start, x.dtype), operation, self.window, self.strides, self.padding,
            window_dilation=self.dilation,
        )  # fmt: skip

    def multiplicity(self, shapes: Sequence[tuple[int, ...]]) -> tuple[Count, ...]:
        counts = np.bincount(self._places.reshape(-1), minlength=self._slid + 1)[: self._slid]
        shape = [n if i in self._axes else 1 for i, n in enumerate(self.shape)]
        return (counts.reshape(shape),)

    def expand(self, operands: Arrays) -> Arrays:
        (x,) = operands
        flat = self._flat(x)
        padded = jnp.concatenate([flat, jnp.zeros_like(flat[..., :1])], -1)
        return (jnp.take(padded, self._places, axis=-1),)

    def average(self, copies: Arrays) -> Arrays:
        like = jax.ShapeDtypeStruct(self.shape, copies[0].dtype)
        (total,) = jax.linear_transpose(lambda x: self.expand((x,))[0], like)(copies[0])
        counts = np.maximum(np.asarray(self.multiplicity((self.shape,))[0]), 1)
        return (total / counts.astype(total.dtype),)

    def evaluate(self, copies: Arrays, constants: Arrays) -> Array:
        (windows,) = copies
        if self.reduction == "sum":
            return self._output(jnp.sum(windows, -1))
        sign = -1 if self.reduction == "min" else 1
        return self._output(sign * jnp.max(self._without_padding(sign * windows), -1))

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        (windows,) = copies
        target = self._rows(target)
        if self.reduction == "sum":
            step = (target - jnp.sum(windows, -1)) / (self._real.sum(-1) + 1).astype(windows.dtype)
            return (windows + jnp.where(self._real, step[..., None], 0),)
        sign = -1 if self.reduction == "min" else 1
        (moved,) = pp.project_max_p.bind(self._without_padding(sign * windows), sign * target)
        return (jnp.where(self._real, sign * moved, 0),)

    def project_average(
        self, operands: Arrays, target: Target, constants: Arrays, wanted: Sequence[bool]
    ) -> Projected:
        """A sum moves all of its window alike, so that no copies are needed."""
        if self.reduction != "sum":
            return super().project_average(operands, target, constants, wanted)
        (x,) = operands
        total = self.forward(operands, constants)
        sizes = self._output(jnp.asarray(self._real.sum(-1), total.dtype), batch=False)
        step = (target - total) / (sizes + 1)
        (spread,) = jax.linear_transpose(lambda x: self.forward((x,), ()), x)(step)
        counts = np.maximum(np.asarray(self.multiplicity((self.shape,))[0]), 1)
        displacement = spread / counts.astype(spread.dtype)
        wide = jnp.promote_types(step.dtype, jnp.float32)
        moved = jnp.sum(sizes * jnp.square(step.astype(wide)))
        scatter = self.scatter_of_means(operands, (displacement,), moved)
        return Projected(total + sizes * step, (displacement,), moved, scatter)

    def describe(self) -> str:
        words = [self.reduction, "x".join(str(self.window[i]) for i in self._axes)]
        if any(self.strides[i] != 1 for i in self._axes):
            words.append("stride " + "x".join(str(self.strides[i]) for i in self._axes))
        return " ".join(words)

    @cached_property
    def _axes(self) -> tuple[int, ...]:
        """Those that windows slide along."""
        rest = zip(self.window, self.strides, self.padding, strict=True)
        return tuple(i for i, x in enumerate(rest) if x != (1, 1, (0, 0)))

    @cached_property
    def _batch(self) -> tuple[int, ...]:
        return tuple(i for i in range(len(self.shape)) if i not in self._axes)

    @cached_property
    def _slid(self) -> int:
        return math.prod(self.shape[i] for i in self._axes)

    @cached_property
    def _steps(self) -> tuple[int, ...]:
        """How many windows there are along each axis that they slide along."""
        return tuple(
            (self.shape[i] + sum(self.padding[i]) - (self.window[i] - 1) * self.dilation[i] - 1)
            // self.strides[i]
            + 1
            for i in self._axes
        )

    @cached_property
    def _places(self) -> np.ndarray:
        """(P, K) where each element of each window is, in the slid axes as one; past their end: nowhere."""
        places, inside = np.zeros((1, 1), np.int32), np.ones((1, 1), bool)
        for i, count in zip(self._axes, self._steps, strict=True):
            at = (
                np.arange(count)[:, None] * self.strides[i]
                + np.arange(self.window[i]) * self.dilation[i]
                - self.padding[i][0]
            )
            valid = (at >= 0) & (at < self.shape[i])
            shape = places.shape[0] * count, places.shape[1] * self.window[i]
            places = (places[:, None, :, None] * self.shape[i] + at[None, :, None, :]).reshape(shape)
            inside = (inside[:, None, :, None] & valid[None, :, None, :]).reshape(shape)
        return np.where(inside, places, self._slid).astype(np.int32)

    @cached_property
    def _real(self) -> np.ndarray:
        """(P, K) whether it is not padding."""
        return self._places < self._slid

    def _flat(self, x: Array) -> Array:
        """The slid axes last, as one."""
        moved = jnp.transpose(x, (*self._batch, *self._axes))
        return moved.reshape(*(self.shape[i] for i in self._batch), self._slid)

    def _rows(self, y: Array) -> Array:
        """An output with its slid axes last, as one."""
        moved = jnp.transpose(y, (*self._batch, *self._axes))
        return moved.reshape(*moved.shape[: len(self._batch)], -1)

    def _output(self, rows: Array, *, batch: bool = True) -> Array:
        """The inverse of `_rows`; without `batch`, of rows that all batch elements share."""
        sizes = tuple(self.shape[i] if batch else 1 for i in self._batch)
        order = np.argsort((*self._batch, *self._axes))
        return jnp.transpose(rows.reshape(*sizes, *self._steps), tuple(int(i) for i in order))

    def _without_padding(self, windows: Array) -> Array:
        return jnp.where(self._real, windows, -jnp.inf)


def _window(reduction: str) -> Rule:
    def rule(ctx: RuleContext) -> ConstraintRule:
        if any(step != 1 for step in ctx.params["base_dilation"]):
            raise NotImplementedError("dilation of the operand (base_dilation)")
        names = "window_dimensions", "window_strides", "padding", "window_dilation"
        window, strides, padding, dilation = (ctx.params[name] for name in names)
        constraint = WindowReduction(
            reduction,
            tuple(ctx.inputs[0].shape),
            tuple(int(n) for n in window),
            tuple(int(n) for n in strides),
            tuple((int(low), int(high)) for low, high in padding),
            tuple(int(n) for n in dilation),
        )
        if any(low < 0 or high < 0 for low, high in constraint.padding):
            raise NotImplementedError("negative padding: slice first")
        if not constraint._real.any(-1).all():
            raise NotImplementedError("windows that lie in the padding altogether")
        return ConstraintRule(constraint, (0,))

    return rule


register_projection(lax.reduce_window_sum_p, _window("sum"))
register_projection(lax.reduce_window_max_p, _window("max"))
register_projection(lax.reduce_window_min_p, _window("min"))
