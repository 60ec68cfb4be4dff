"""How often data movements use each element of what they move.

The counts of an array have its rank; along an axis where they do not change, their length is 1. So
those of a loop's carry are as long as the loop, however large an iteration is.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jax import lax

from ..rules import Movement
from .ir import CARRY, Equation, Value

Counts = np.ndarray
Back = Callable[[Equation, Counts], Sequence[Counts | None]]


def count_uses(
    value: Value, inputs: Sequence[Value], path: Sequence[tuple[Equation, Movement]]
) -> tuple[int | Counts | None, ...]:
    """Gives for each input of a path how often `value` uses its elements.

    An integer where it is the same for all; None where it has to be found by `jax.vjp` of the path.
    """
    found: dict[Value, Counts | None] = {value: np.ones((1,) * len(value.shape), int)}
    for equation, movement in reversed(path):
        output, *others = equation.outputs
        counts = None if others else found.get(output)
        passed: Sequence[Counts | None] = [None] * len(equation.inputs)
        if counts is not None:
            passed = _BACK.get(equation.primitive, _any(movement))(equation, counts)
        for operand, new in zip(equation.inputs, passed, strict=True):
            before = found.get(operand, np.zeros((1,) * len(operand.shape), int))
            found[operand] = None if new is None or before is None else before + new
    return tuple(map(_plain, (found[value] for value in inputs)))


def _plain(counts: Counts | None) -> int | Counts | None:
    return int(counts.flat[0]) if counts is not None and counts.size == 1 else counts


def _any(movement: Movement) -> Back:
    """The way back through a movement of which only the kind is known."""

    def back(equation: Equation, counts: Counts) -> list[Counts | None]:
        if movement.kind == "partial" or counts.size > 1:
            return [None] * len(equation.inputs)
        factors = [
            equation.outputs[0].size // x.size if movement.kind == "repeating" and x.size else 1
            for x in equation.inputs
        ]
        ranks = [(1,) * len(x.shape) for x in equation.inputs]
        return [f * counts.reshape(rank) for f, rank in zip(factors, ranks, strict=True)]

    return back


def _part(counts: Counts, axis: int, part: slice) -> Counts:
    """The counts in a part of an axis."""
    if counts.shape[axis] == 1:
        return counts
    return counts[(slice(None),) * axis + (part,)]


def _carry(equation: Equation, counts: Counts) -> list[Counts | None]:
    _, out = equation.inputs
    axis, reverse = equation.params["axis"], equation.params["reverse"]
    full = np.repeat(counts, out.shape[axis], axis) if counts.shape[axis] == 1 else counts
    none = np.zeros_like(_part(full, axis, slice(1)))
    if reverse:
        used = [none, _part(full, axis, slice(-1))]
        return [np.take(full, -1, axis), np.concatenate(used, axis)]
    used = [_part(full, axis, slice(1, None)), none]
    return [np.take(full, 0, axis), np.concatenate(used, axis)]


def _slice(equation: Equation, counts: Counts) -> list[Counts | None]:
    params, (x,) = equation.params, equation.inputs
    for axis, (size, length) in enumerate(zip(x.shape, equation.outputs[0].shape, strict=True)):
        if size != length:
            strides = params["strides"]
            chosen = slice(params["start_indices"][axis], params["limit_indices"][axis],
                           strides[axis] if strides else 1)  # fmt: skip
            whole = np.zeros((*counts.shape[:axis], size, *counts.shape[axis + 1 :]), int)
            whole[(slice(None),) * axis + (chosen,)] = counts
            counts = whole
    return [counts]


def _broadcast(equation: Equation, counts: Counts) -> list[Counts | None]:
    kept = equation.params["broadcast_dimensions"]
    (x,), (output,) = equation.inputs, equation.outputs
    for axis, size in enumerate(output.shape):
        repeated = axis not in kept or x.shape[kept.index(axis)] != size
        if repeated:
            counts = counts.sum(axis, keepdims=True) * (size if counts.shape[axis] == 1 else 1)
    return [np.squeeze(counts, tuple(i for i in range(counts.ndim) if i not in kept))]


def _concatenate(equation: Equation, counts: Counts) -> list[Counts | None]:
    axis, start = equation.params["dimension"], 0
    parts: list[Counts | None] = []
    for x in equation.inputs:
        parts.append(_part(counts, axis, slice(start, start + x.shape[axis])))
        start += x.shape[axis]
    return parts


_BACK: dict[object, Back] = {
    CARRY: _carry,
    lax.slice_p: _slice,
    lax.broadcast_in_dim_p: _broadcast,
    lax.concatenate_p: _concatenate,
    lax.squeeze_p: lambda e, c: [np.expand_dims(c, tuple(e.params["dimensions"]))],
    lax.transpose_p: lambda e, c: [np.transpose(c, np.argsort(e.params["permutation"]))],
    lax.rev_p: lambda e, c: [np.flip(c, tuple(e.params["dimensions"]))],
    lax.convert_element_type_p: lambda e, c: [c],
    lax.copy_p: lambda e, c: [c],
    lax.stop_gradient_p: lambda e, c: [np.zeros_like(c)],
}
"""What the movement whose output has some counts means for its inputs."""
