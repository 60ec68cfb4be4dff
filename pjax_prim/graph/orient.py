"""A product whose only use is its transpose is taken the other way round.

`jax.vmap` of a matrix-vector product makes one: batch axes come last and are then moved to the
front; a loop around it makes two in a row. Without it no array has to be transposed on the way to
the next constraint and back, nor on the way of a derivative, where the sum of two products hides
the transpose from the compiler.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from jax import lax
from jaxtyping import Array

from .ir import Equation, Value

Dimensions = tuple[tuple[Sequence[int], Sequence[int]], tuple[Sequence[int], Sequence[int]]]


def orient(equations: Sequence[Equation], ends: Iterable[Value]) -> list[Equation]:
    """The equations with the operands of such products exchanged.

    **Arguments:** `ends`, the values that are read elsewhere.
    """
    uses = Counter(value for equation in equations for value in equation.inputs)
    uses.update(ends)
    transposes = {x.inputs[0]: x for x in equations if x.primitive is lax.transpose_p}
    exchanged: dict[Equation, Equation] = {}
    gone: set[Equation] = set()
    for equation in equations:
        if equation.primitive is not lax.dot_general_p or not _is_plain(equation.params):
            continue
        (output,) = equation.outputs
        wanted = _exchange(equation)
        permutation, passed = tuple(range(len(output.shape))), []
        while uses[output] == 1 and output in transposes:
            passed.append(transposes[output])
            permutation = tuple(permutation[i] for i in passed[-1].params["permutation"])
            (output,) = passed[-1].outputs
            if permutation == wanted:
                exchanged[equation] = _exchanged(equation, output)
                gone.update(passed)
                break
    return [exchanged.get(x, x) for x in equations if x not in gone]


def _is_plain(params: dict[str, Any]) -> bool:
    """Whether nothing but the dimensions says which operand is which."""
    precision = params["precision"]
    same = precision is None or (isinstance(precision, tuple) and precision[0] == precision[1])
    return same and params.get("out_sharding") is None


def _exchange(equation: Equation) -> tuple[int, ...]:
    """The permutation of a product's axes that exchanging its operands amounts to."""
    dimensions: Dimensions = equation.params["dimension_numbers"]
    contracted, batch = dimensions
    batched = len(batch[0])
    left, right = (
        len(value.shape) - batched - len(axes)
        for value, axes in zip(equation.inputs, contracted, strict=True)
    )
    moved = range(batched + left, batched + left + right)
    return (*range(batched), *moved, *range(batched, batched + left))


def _exchanged(equation: Equation, output: Value) -> Equation:
    dimensions: Dimensions = equation.params["dimension_numbers"]
    params = equation.params | {"dimension_numbers": tuple(pair[::-1] for pair in dimensions)}
    return replace(
        equation,
        params=params,
        inputs=equation.inputs[::-1],
        outputs=(output,),
        apply=partial(_product, params),
    )


def _product(params: dict[str, Any], a: Array, b: Array) -> tuple[Array]:
    return (lax.dot_general_p.bind(a, b, **params),)
