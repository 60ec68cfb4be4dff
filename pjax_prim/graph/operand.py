"""The path of data from producers to one operand of a constraint, and the averaging path back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from ..rules import Movement
from ..rules.constraint import Count
from .counts import count_uses
from .ir import CARRY, Environment, Equation, Value, read, state_dtype, widen

Apply = Callable[..., Sequence[Array]]


@dataclass(frozen=True, eq=False)
class Operand:
    """A value that a constraint consumes, as data movements of what other nodes produce.

    - `value`: the operand.
    - `inputs`: the nodes' outputs (values) it is made of; empty if it is constant.
    - `producers`: for each input the index of the node that supplies it.
    - `path`: the equations that lead from the inputs to the value.
    - `counts`: for each input how often each of its elements is used (see `counts.count_uses`).
    - `carried`: for each input whether every way from it goes through the carry of a loop.
    """

    value: Value
    inputs: tuple[Value, ...]
    producers: tuple[int, ...]
    path: tuple[Equation, ...]
    counts: tuple[Count | None, ...]
    carried: tuple[bool, ...]

    @property
    def is_constant(self) -> bool:
        """Whether no node supplies it."""
        return not self.inputs

    def gather(self, arrays: Sequence[Array], constants: Environment) -> Array:
        """The operand, from its inputs' arrays; in the dtype that states have (`ir.state_dtype`)."""
        if self.is_constant:
            return widen(jnp.asarray(read(constants, self.value)))
        if not self.path:
            return arrays[0]
        environment = dict(zip(self.inputs, arrays, strict=True))
        for equation in self.path:
            follow(equation, environment, constants)
        return environment[self.value]

    def spread(self, array: Array, constants: Environment) -> list[Array]:
        """The way back: for each input the sum over its uses.

        **Arguments:** `array`, of the operand's shape; `constants`, the constant values.
        """
        if self.is_constant:
            return []
        if not self.path:
            return [array]
        zeros = [jnp.zeros(value.shape, state_dtype(value.dtype)) for value in self.inputs]
        _, transpose = jax.vjp(lambda *arrays: self.gather(arrays, constants), *zeros)
        return list(transpose(array.astype(state_dtype(self.value.dtype))))

    def uses(self, constants: Environment, weights: Count = 1) -> list[Array | Count]:
        """Gives for each input how often the operand uses each of its elements.

        With `weights` of the operand's elements, their sum over the uses. An integer where it is
        the same for all elements, else an array that broadcasts to the input; of NumPy where no
        data decide.
        """
        if self.is_constant:
            return []
        known = [count for count in self.counts if count is not None]
        if isinstance(weights, int) and len(known) == len(self.counts):
            return [weights * count for count in known]
        dtype = state_dtype(self.value.dtype)
        used = self.spread(jnp.broadcast_to(jnp.asarray(weights, dtype), self.value.shape), constants)
        return [
            weights * count if isinstance(weights, int) and count is not None else array
            for array, count in zip(used, self.counts, strict=True)
        ]


def follow(
    equation: Equation, environment: Environment, constants: Environment, apply: Apply | None = None
) -> None:
    """Adds what a movement makes to an environment of arrays in the dtypes of states.

    **Arguments:** `apply`, the arrays of its outputs from those of its inputs, in place of its own.
    """
    arrays = [
        environment[value] if value in environment else widen(jnp.asarray(read(constants, value)))
        for value in equation.inputs
    ]
    if equation.primitive is lax.convert_element_type_p:  # to a half precision it would round
        results: Sequence[Array] = (arrays[0].astype(state_dtype(equation.outputs[0].dtype)),)
    else:
        results = (apply or equation.apply)(*arrays)
    environment.update(zip(equation.outputs, results, strict=True))


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
        return Operand(value, (), (), (), (), ())
    counts = count_uses(value, inputs, [moved_by[equation.outputs[0]] for equation in path])
    producers = tuple(producer_of[value] for value in inputs)
    direct = {value}
    for equation in reversed(path):
        if equation.primitive is not CARRY and any(x in direct for x in equation.outputs):
            direct.update(equation.inputs)
    carried = tuple(value not in direct for value in inputs)
    return Operand(value, tuple(inputs), producers, tuple(path), counts, carried)
