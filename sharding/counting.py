"""Operations and memory traffic of a compiled program whose loops repeat.

XLA's own analysis counts the body of a loop once, however often it runs.
"""

import math
import re

import numpy as np

from .program import Computation, Operation, Program, root, size_of

_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "iota",
    "after-all", "partition-id", "replica-id", "opt-barrier",
}  # fmt: skip
_SLICES = ("dynamic-slice", "slice", "gather")


def repeated(program: Program) -> tuple[float, float]:
    """What all iterations but the first of each loop add: floating-point operations of products and
    convolutions, and bytes accessed.

    Bytes are those of operands and results of each operation, of a slice or an update of a larger array
    those of the slice, as XLA counts them. A loop whose length depends on values adds nothing.
    """
    flops, accessed = 0.0, 0.0
    fused = {
        name
        for computation in program.computations.values()
        for operation in computation.values()
        if operation.kind != "while"
        for role, name in operation.called()
        if role != "branch_computations" and operation.kind != "call"
    }
    for name, computation in program.computations.items():
        more = program.times[name] - 1
        if more < 1 or name not in program.looped:
            continue
        for operation in computation.values():
            flops += more * _flops(computation, operation)
            if name not in fused:
                accessed += more * _accessed(program, computation, operation)
    return flops, accessed


def _flops(computation: Computation, operation: Operation) -> float:
    """Two for each multiplication of a product or a convolution."""
    if operation.kind not in ("dot", "convolution"):
        return 0
    (_, out), *_ = operation.results
    left, right = (computation[x].results[0][1] for x in operation.operands[:2])
    if operation.kind == "dot":
        contracted = operation.attribute("lhs_contracting_dims")
        return 2.0 * math.prod(out) * math.prod(left[axis] for axis in contracted)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", operation.line)
    assert labels is not None
    products = 2.0 * right[labels[2].index("i")]
    for axis, letter in enumerate(labels[3]):
        if letter.isdigit():
            ends = left[labels[1].index(letter)], right[labels[2].index(letter)], out[axis]
            products *= _positions(operation, int(letter), *ends)
        else:
            products *= out[axis]
    return products


def _positions(operation: Operation, axis: int, size: int, kernel: int, out: int) -> int:
    """How many pairs of an output and an element of the kernel fall on an element of the input."""

    def setting(name: str, default: str) -> str:
        found = re.search(rf"window=\{{[^}}]*\b{name}=([\w-]+)", operation.line)
        return found[1].split("x")[axis] if found else default

    stride, dilation, spread = (int(setting(x, "1")) for x in ("stride", "rhs_dilate", "lhs_dilate"))
    before = int(setting("pad", "0_0").split("_")[0])
    at = np.arange(out)[:, None] * stride + np.arange(kernel) * dilation - before
    return int(np.sum((at >= 0) & (at % spread == 0) & (at // spread < size)))


def _accessed(program: Program, computation: Computation, operation: Operation) -> float:
    if operation.kind in _FREE or operation.kind.endswith("-done"):
        return 0
    if operation.kind == "fusion":
        called = dict(operation.called())["calls"]
        return _of_fusion(program.computations[called], operation)
    if operation.kind in _SLICES:
        return 2 * size_of(operation.results)
    operands = [computation[x].results for x in operation.operands if x in computation]
    if operation.kind == "dynamic-update-slice":
        return 2 * size_of(operands[1])
    return size_of(operation.results) + sum(map(size_of, operands))


def _of_fusion(inside: Computation, operation: Operation) -> float:
    """Bytes that a fusion reads and writes: of an operand that it only slices or updates, of the parts."""
    total = 0.0
    aliased = re.findall(r"\{(\d*)\}: \((\d+),", operation.line)
    taken_over = {int(operand) for _, operand in aliased}
    given_back = {int(result or 0) for result, _ in aliased}
    for found in inside.values():
        if found.kind == "parameter" and int(found.operands[0]) not in taken_over:
            total += _read(inside, found)
    last = root(inside)
    assert last is not None
    results = [inside[x] for x in last.operands] if last.kind == "tuple" else [last]
    for index, found in enumerate(results):
        while found.kind == "bitcast" and found.operands[0] in inside:
            found = inside[found.operands[0]]
        if found.kind == "dynamic-update-slice":
            total += size_of(inside[found.operands[1]].results)
        elif found.kind != "parameter" and index not in given_back:
            total += size_of(found.results)
    return total


def _read(inside: Computation, array: Operation) -> float:
    total = 0.0
    for user in inside.values():
        if array.name not in user.operands or user.kind == "tuple":
            continue
        if user.kind == "bitcast":
            total += _read(inside, user)
        elif user.kind in _SLICES and user.operands[0] == array.name:
            total += size_of(user.results)
        elif not (user.kind == "dynamic-update-slice" and user.operands[0] == array.name):
            return size_of(array.results)
    return min(total, size_of(array.results))
