"""The path of data from producers to one operand of a constraint, and the averaging path back."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..rules import Movement
from .ir import Environment, Equation, Value, evaluate, read


@dataclass(frozen=True, eq=False)
class Operand:
    """A value that a constraint consumes, as data movements of what other nodes produce.

    - `value`: the operand.
    - `inputs`: the nodes' outputs (values) it is made of; empty if it is constant.
    - `producers`: for each input the index of the node that supplies it.
    - `path`: the equations that lead from the inputs to the value.
    - `counts`: for each input how often each of its elements is used, or None where this
      differs between elements.
    """

    value: Value
    inputs: tuple[Value, ...]
    producers: tuple[int, ...]
    path: tuple[Equation, ...]
    counts: tuple[int | None, ...]

    @property
    def is_constant(self) -> bool:
        """Whether no node supplies it."""
        return not self.inputs

    def gather(self, arrays: Sequence[Array], constants: Environment) -> Array:
        """The operand, from its inputs' arrays."""
        if self.is_constant:
            return jnp.asarray(read(constants, self.value))
        if not self.path:
            return arrays[0]
        environment = {**constants, **dict(zip(self.inputs, arrays, strict=True))}
        evaluate(self.path, environment)
        return environment[self.value]

    def spread(self, mean: Array, constants: Environment) -> list[tuple[Array, Array | int]]:
        """The way back: for each input the sum over its uses, and their number.

        **Arguments:** `mean`, an array of the operand's shape; `constants`, the constant values.

        **Returns:** for each input `(sum, count)`; `count` is an integer where it is the same
        for all elements, else an array that is zero where the operand does not use an element.
        """
        if not self.path:
            return [(mean, 1)]
        zeros = [jnp.zeros(value.shape, value.dtype) for value in self.inputs]
        _, transpose = jax.vjp(lambda *arrays: self.gather(arrays, constants), *zeros)
        sums = transpose(mean)
        if None in self.counts:
            used = transpose(jnp.ones_like(mean))
        return [
            (total, count if count is not None else used[i])
            for i, (total, count) in enumerate(zip(sums, self.counts, strict=True))
        ]


def make_operand(
    value: Value,
    producer_of: dict[Value, int],
    moved_by: dict[Value, tuple[Equation, Movement]],
) -> Operand:
    """Walks back from `value` over data movements to what nodes produce.

    **Arguments:** `producer_of`, the node that produces a value; `moved_by`, for each result of
    a data movement its equation.
    """
    inputs: list[Value] = []
    path: list[Equation] = []
    seen: set[Value] = set()

    def visit(value: Value) -> None:
        if value in seen:
            return
        seen.add(value)
        if value in producer_of:
            inputs.append(value)
        elif value in moved_by:
            equation, _ = moved_by[value]
            seen.update(equation.outputs)
            for operand in equation.inputs:
                visit(operand)
            path.append(equation)

    visit(value)
    if not inputs:
        return Operand(value, (), (), (), ())
    counts = _counts(value, inputs, path, moved_by)
    producers = tuple(producer_of[value] for value in inputs)
    return Operand(value, tuple(inputs), producers, tuple(path), counts)


def _counts(
    value: Value,
    inputs: list[Value],
    path: list[Equation],
    moved_by: dict[Value, tuple[Equation, Movement]],
) -> tuple[int | None, ...]:
    """How often each element of each input is used, by walking the path backwards."""
    uses: dict[Value, int | None] = {value: 1}
    for equation in reversed(path):
        _, movement = moved_by[equation.outputs[0]]
        (passed, *others) = (uses.get(output, 0) for output in equation.outputs)
        if movement.kind == "partial" or others:
            passed = None
        for operand in equation.inputs:
            factor = 1
            if movement.kind == "repeating" and operand.size:
                factor = equation.outputs[0].size // operand.size
            before = uses.get(operand, 0)
            uses[operand] = None if passed is None or before is None else before + passed * factor
    return tuple(uses[value] for value in inputs)
