"""Layer norms, however they are written, become one constraint.

A group of equations with one input and one output of its shape, at least one of which is a sum over axes,
is tried on samples: if it gives t / sqrt(mean t^2 + eps) over these axes, with t = x or x - mean x and eps
one of its numbers, it is a norm. Its elementary constraints meet far more slowly
(`benchmarks/compositions.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .groups import ELEMENTWISE, Groups
from .ir import Equation, Value
from .trace import FlatFunction

_OTHERS = {lax.reduce_sum_p, lax.broadcast_in_dim_p, lax.reshape_p, lax.squeeze_p}
_SCALES = 1.0, 1e-3
"""Of samples: the small one tells what is added to the mean of squares."""

Axes = tuple[int | None, ...]
"""For each axis of a value the axis of the group's input that it is; None for an axis of size 1."""


@dataclass(frozen=True)
class Norm:
    """`output` is the norm of `root` over `axes`."""

    root: Value
    output: Value
    axes: tuple[int, ...]
    eps: float
    center: bool


def plan_norms(function: FlatFunction, varying: set[Value]) -> list[Norm]:
    """All groups that are norms. Values inside must be used nowhere else: they have no copies then."""
    groups = Groups(function, varying, _is_rowwise)
    plans: list[Norm] = []
    for last in function.equations:
        if last.primitive not in (lax.mul_p, lax.div_p) or last.outputs[0] not in varying:
            continue
        for root, members in groups.ending_at(last):
            if root.shape != last.outputs[0].shape or not jnp.issubdtype(root.dtype, jnp.floating):
                continue
            steps = groups.closed(root, members)
            if steps is not None and (found := _norm_of(root, last.outputs[0], steps)) is not None:
                plans.append(found)
                break
    return plans


def _is_rowwise(equation: Equation, varying: set[Value]) -> bool:
    return equation.primitive in ELEMENTWISE | _OTHERS and equation.outputs[0] in varying


def _norm_of(root: Value, output: Value, steps: list[Equation]) -> Norm | None:
    traced = _trace_axes(root, steps)
    if traced is None:
        return None
    axes, summed = traced
    if not summed or 0 in root.shape or axes.get(output) != axes[root]:
        return None
    # Of the other axes two entries are enough.
    small = tuple(n if axis in summed else min(n, 2) for axis, n in enumerate(root.shape))
    samples = np.random.default_rng(0).standard_normal((len(_SCALES), *small))
    samples = (np.reshape(_SCALES, (-1, *[1] * len(small))) * samples).astype(root.dtype)
    with jax.ensure_compile_time_eval():
        values = [np.asarray(_evaluate(root, output, steps, axes, jnp.asarray(x))) for x in samples]
    for eps in _numbers(steps):
        for center in (True, False):
            pairs = zip(samples, values, strict=True)
            if all(_is_norm(x, value, summed, eps, center, root.dtype) for x, value in pairs):
                return Norm(root, output, summed, eps, center)
    return None


def _is_norm(
    x: np.ndarray, value: np.ndarray, axes: tuple[int, ...], eps: float, center: bool, dtype: Any
) -> bool:
    x = x.astype(np.float64)
    t = x - x.mean(axes, keepdims=True) if center else x
    expected = t / np.sqrt(np.mean(t * t, axes, keepdims=True) + eps)
    tolerance = 64 * float(jnp.finfo(dtype).eps)
    return bool(np.all(np.abs(value.astype(np.float64) - expected) <= tolerance * (1 + np.abs(expected))))


def _numbers(steps: list[Equation]) -> Iterator[float]:
    """Those written in a group that may be an epsilon."""
    seen = set()
    for step in steps:
        for value in step.inputs:
            if value.literal is not None and np.size(value.literal) == 1:
                number = float(np.asarray(value.literal).reshape(()))
                if 0 < number < np.inf and number not in seen:
                    seen.add(number)
                    yield number


def _trace_axes(root: Value, steps: list[Equation]) -> tuple[dict[Value, Axes], tuple[int, ...]] | None:
    """The axes of all values that depend on the root, and those that are summed; None where they are lost."""
    known: dict[Value, Axes] = {root: tuple(None if n == 1 else i for i, n in enumerate(root.shape))}
    summed: set[int] = set()
    for step in steps:
        inputs = [value for value in step.inputs if value in known]
        output = step.outputs[0]
        if not inputs:
            continue
        axes = known[inputs[0]]
        if step.primitive is lax.reduce_sum_p:
            gone = step.params["axes"]
            summed.update(axes[i] for i in gone if axes[i] is not None)
            found: Axes | None = tuple(axis for i, axis in enumerate(axes) if i not in gone)
        elif step.primitive is lax.broadcast_in_dim_p:
            found = _broadcast_axes(axes, inputs[0].shape, step, root)
        elif step.primitive in (lax.reshape_p, lax.squeeze_p):
            found = _reshaped_axes(axes, output.shape, root)
        else:
            found = _common_axes([known[value] for value in inputs])
        if found is None:
            return None
        known[output] = found
    return known, tuple(sorted(summed))


def _common_axes(given: list[Axes]) -> Axes | None:
    """Of an elementwise operation, whose operands may have axes of size 1 where others do not."""
    found = []
    for axes in zip(*filter(None, given), strict=True):
        named = {axis for axis in axes if axis is not None}
        if len(named) > 1:
            return None
        found.append(named.pop() if named else None)
    return tuple(found)


def _broadcast_axes(axes: Axes, shape: tuple[int, ...], step: Equation, root: Value) -> Axes | None:
    found: list[int | None] = []
    places = {o: i for i, o in enumerate(step.params["broadcast_dimensions"])}
    for o, size in enumerate(step.outputs[0].shape):
        kept = o in places and shape[places[o]] == size
        if kept or size == 1:
            found.append(axes[places[o]] if kept else None)
        elif len(step.outputs[0].shape) == len(root.shape) and root.shape[o] == size:
            found.append(o)
        else:
            return None
    return tuple(found)


def _reshaped_axes(axes: Axes, shape: tuple[int, ...], root: Value) -> Axes | None:
    """Where a reshape only adds or removes axes of size 1."""
    left = [axis for axis in axes if axis is not None]
    if [root.shape[axis] for axis in left] != [n for n in shape if n != 1]:
        return None
    rest = iter(left)
    return tuple(None if n == 1 else next(rest) for n in shape)


def _evaluate(root: Value, output: Value, steps: list[Equation], axes: dict[Value, Axes], x: Any) -> Any:
    """The steps on an array in the root's place that may be shorter along its axes; numbers stay numbers."""
    environment: dict[Value, Any] = {root: x}

    def read(value: Value) -> Any:
        if value.literal is not None:
            return jnp.asarray(value.literal, value.dtype).reshape(())
        return environment[value]

    def shape_of(value: Value) -> tuple[int, ...]:
        places = axes[value]
        return tuple(1 if axis is None else x.shape[axis] for axis in places)

    for step in steps:
        inputs, made = [read(value) for value in step.inputs], step.outputs[0]
        if made not in axes:  # a number
            moves = step.primitive in _OTHERS
            environment[made] = inputs[0] if moves else step.primitive.bind(*inputs, **step.params)
        elif step.primitive is lax.reduce_sum_p:
            environment[made] = jnp.sum(inputs[0], step.params["axes"])
        elif step.primitive is lax.broadcast_in_dim_p:
            dims = step.params["broadcast_dimensions"]
            environment[made] = lax.broadcast_in_dim(inputs[0], shape_of(made), dims)
        elif step.primitive in _OTHERS:
            environment[made] = inputs[0].reshape(shape_of(made))
        else:
            same = [jnp.broadcast_to(value, shape_of(made)) for value in inputs]
            environment[made] = step.primitive.bind(*same, **step.params)
    return environment[output]
