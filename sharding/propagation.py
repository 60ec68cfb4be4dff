"""Which axis of a result is which axis of an operand, through any jaxpr.

Every axis of an array may carry a *label* (here: the mesh axis it is to be divided over). An axis of a
result takes the label of the operand axis that it runs along. A primitive that is not in the table
keeps the labels of operands of the result's rank, axis by axis where the sizes agree: right for all
elementwise operations. A label that gets lost makes an array less divided, never a result wrong.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax import lax

from .._compat import EXTRA_MOVEMENTS, called_jaxpr
from ..walking import walk

Labels = tuple[Any, ...]
"""The label of each axis of an array, or None."""

Shape = tuple[int, ...]


def propagate(
    closed: Any, inputs: Sequence[Labels], visit: Callable[[Any, Sequence[Labels]], None] | None = None
) -> list[Labels]:
    """The labels of a jaxpr's results, from those of its inputs. Constants have none.

    **Arguments:** `visit(equation, labels of its operands)` is called with each equation that calls no
    program exactly once.
    """

    def run(equation: Any, operands: list[Labels]) -> list[Labels]:
        called = called_jaxpr(equation)
        if called is not None:
            return propagate(called, operands, visit)
        if visit is not None:
            visit(equation, operands)
        shapes = [tuple(atom.aval.shape) for atom in equation.invars]
        results = [tuple(variable.aval.shape) for variable in equation.outvars]
        return through(equation.primitive, equation.params, operands, shapes, results)

    def unlabelled(constant: Any) -> Labels:
        return (None,) * np.ndim(constant)

    return walk(closed, inputs, unlabelled, run)


def through(
    primitive: Any,
    params: dict[str, Any],
    operands: Sequence[Labels],
    shapes: Sequence[Shape],
    results: Sequence[Shape],
) -> list[Labels]:
    """The labels of an equation's results.

    **Arguments:** the equation's `primitive` and `params`; of its operands labels and `shapes`; the
    shapes of its `results`.
    """
    rule = _RULES.get(primitive)
    if rule is not None:
        return [once(rule(params, operands, shapes, results[0]))]
    return [once(_alike(operands, shapes, result)) for result in results]


def once(labels: Sequence[Any]) -> Labels:
    """The labels without repetitions: the first axis keeps it."""
    return tuple(None if label in labels[:i] else label for i, label in enumerate(labels))


def merge(several: Sequence[Labels]) -> Labels:
    """The labels of arrays that run along the same axes: for each axis the first label there is."""
    return once([next((x for x in axis if x is not None), None) for axis in zip(*several, strict=True)])


def _alike(operands: Sequence[Labels], shapes: Sequence[Shape], result: Shape) -> Labels:
    matching = [
        tuple(x if a == b else None for x, a, b in zip(labels, shape, result, strict=True))
        for labels, shape in zip(operands, shapes, strict=True)
        if len(shape) == len(result)
    ]
    return merge(matching) if matching else (None,) * len(result)


def _broadcast(params: Any, operands: Any, shapes: Any, result: Shape) -> Labels:
    labels = [None] * len(result)
    for axis, place in enumerate(params["broadcast_dimensions"]):
        if shapes[0][axis] == result[place]:
            labels[place] = operands[0][axis]
    return tuple(labels)


def _transpose(params: Any, operands: Any, shapes: Any, result: Shape) -> Labels:
    return tuple(operands[0][axis] for axis in params["permutation"])


def _reshape(params: Any, operands: Any, shapes: Any, result: Shape) -> Labels:
    """The first axis of each group that is split or merged keeps its label."""
    labels: list[Any] = [None] * len(result)
    before = [axis for axis, size in enumerate(shapes[0]) if size != 1]
    after = [axis for axis, size in enumerate(result) if size != 1]
    while before and after:
        first, place = before.pop(0), after.pop(0)
        labels[place] = operands[0][first]
        left, right = shapes[0][first], result[place]
        while left != right:
            if left < right:
                left *= shapes[0][before.pop(0)]
            else:
                right *= result[after.pop(0)]
    return tuple(labels)


def _reduced(params: Any, operands: Any, shapes: Any, result: Shape) -> Labels:
    return tuple(label for axis, label in enumerate(operands[0]) if axis not in params["axes"])


def _dot(params: Any, operands: Any, shapes: Any, result: Shape) -> Labels:
    contracted, batch = params["dimension_numbers"]
    free = [
        [labels[i] for i in range(len(labels)) if i not in (*contracted[side], *batch[side])]
        for side, labels in enumerate(operands)
    ]
    shared = merge([tuple(labels[i] for i in batch[side]) for side, labels in enumerate(operands)])
    return (*shared, *free[0], *free[1])


def _convolution(params: Any, operands: Any, shapes: Any, result: Shape) -> Labels:
    numbers = params["dimension_numbers"]
    labels: list[Any] = [None] * len(result)
    if params["batch_group_count"] == 1:
        labels[numbers.out_spec[0]] = operands[0][numbers.lhs_spec[0]]
    labels[numbers.out_spec[1]] = operands[1][numbers.rhs_spec[0]]
    return tuple(labels)


def _gather(params: Any, operands: Any, shapes: Any, result: Shape) -> Labels:
    """Axes that are taken whole."""
    numbers = params["dimension_numbers"]
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    kept = [axis for axis in range(len(shapes[0])) if axis not in gone]
    labels: list[Any] = [None] * len(result)
    for axis, place in zip(kept, numbers.offset_dims, strict=True):
        if params["slice_sizes"][axis] == shapes[0][axis]:
            labels[place] = operands[0][axis]
    return tuple(labels)


def _concatenate(params: Any, operands: Any, shapes: Any, result: Shape) -> Labels:
    """The whole is divided as its longest part is: a loop's carry as what iterations pass on."""
    labels = list(merge(operands))
    axis = params["dimension"]
    labels[axis] = max(zip(shapes, operands, strict=True), key=lambda x: x[0][axis])[1][axis]
    return tuple(labels)


def _part(params: Any, operands: Any, shapes: Any, result: Shape) -> Labels:
    """A part is divided as the whole is, as far as its length allows."""
    return operands[0]


def _stack(params: Any, operands: Any, shapes: Any, result: Shape) -> Labels:
    labels = list(merge(operands))
    labels.insert(params["axis"], None)
    return tuple(labels)


_Rule = Callable[[Any, Any, Any, Shape], Labels]

_RULES: dict[Any, _Rule] = {
    lax.broadcast_in_dim_p: _broadcast,
    lax.transpose_p: _transpose,
    lax.reshape_p: _reshape,
    lax.squeeze_p: _reshape,
    lax.concatenate_p: _concatenate,
    lax.slice_p: _part,
    lax.pad_p: _part,
    lax.dot_general_p: _dot,
    lax.conv_general_dilated_p: _convolution,
    lax.gather_p: _gather,
    lax.reduce_sum_p: _reduced,
    lax.reduce_max_p: _reduced,
    lax.reduce_min_p: _reduced,
}
_RULES.update({primitive: _stack for primitive in EXTRA_MOVEMENTS if primitive.name == "stack"})
