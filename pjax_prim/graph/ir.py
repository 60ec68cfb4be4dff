"""The flat form of a traced function: values, and equations between them."""

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jaxtyping import Array

from ..primitives._arguments import compute_dtype


@dataclass(frozen=True, eq=False)
class Value:
    """One value of the traced function; compares by identity.

    `literal` is the number of a literal, else None.
    """

    shape: tuple[int, ...]
    dtype: Any
    literal: Any = None

    @property
    def size(self) -> int:
        size = 1
        for length in self.shape:
            size *= length
        return size


@dataclass(frozen=True)
class Loop:
    """A loop of the traced function whose iterations stand side by side along one axis."""

    name: str
    length: int

    def __str__(self) -> str:
        return f"{self.name} x{self.length}"


CARRY = Primitive("carry")
"""What a loop's iterations start from: the initial value, then what each passes to its next."""

FORWARD = Primitive("forward")
"""A loop run one iteration after the other, for the values of its carries."""

WHOLE = Primitive("whole")
"""A loop run one iteration after the other, for its results."""


@dataclass(frozen=True, eq=False)
class Equation:
    """`outputs = apply(*inputs)`.

    - `primitive`, `params`: of the JAX equation.
    - `inputs`, `outputs`: values.
    - `apply`: evaluates it on arrays.
    - `source`: the user's file and line.
    - `loops`: those whose iterations it stands for, outermost first.
    """

    primitive: Primitive
    params: dict[str, Any]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    apply: Callable[..., tuple[Array, ...]]
    source: str
    loops: tuple[Loop, ...] = ()


def reshaping(given: Value, wanted: Value, source: str, loops: tuple[Loop, ...] = ()) -> Equation:
    """The equation that reshapes one value into another."""
    params = {"new_sizes": wanted.shape, "dimensions": None, "sharding": None}
    return Equation(
        lax.reshape_p, params, (given,), (wanted,), lambda x: (x.reshape(wanted.shape),), source, loops
    )


Environment = dict[Value, Array]


def read(environment: Environment, value: Value) -> Any:
    """The array of a value: what the environment holds, or a literal's number."""
    return environment[value] if value.literal is None or value in environment else value.literal


def evaluate(equations: Iterable[Equation], environment: Environment) -> None:
    """Runs equations in order, adding their outputs to the environment."""
    for equation in equations:
        results = equation.apply(*(read(environment, value) for value in equation.inputs))
        environment.update(zip(equation.outputs, results, strict=True))


def closure(values: set[Value], equations: Sequence[Equation]) -> set[Value]:
    """`values` and all that depends on them. Once round is enough but for the carries of loops."""
    size = -1
    while size < len(values):
        size = len(values)
        for equation in equations:
            if any(value in values for value in equation.inputs):
                values.update(equation.outputs)
    return values


def computing(
    equations: Iterable[Equation],
    instead: Iterable[Equation],
    wanted: Iterable[Value],
    known: Container[Value] = (),
) -> list[Equation]:
    """The equations that some wanted values depend on, each after those that it depends on.

    Where one of `instead` computes a value, the equation that does is left out. `known` values need none.
    """
    made_by = {value: x for x in (*equations, *instead) for value in x.outputs if value not in known}
    found: dict[Equation, None] = {}
    left = [made_by[value] for value in wanted if value in made_by]
    while left:
        equation = left[-1]
        missing = [made_by[x] for x in equation.inputs if x in made_by and made_by[x] not in found]
        left += missing
        if not missing:
            found[left.pop()] = None
    return list(found)


def leading_to(equations: Sequence[Equation], wanted: Iterable[Value]) -> list[Equation]:
    """The equations that some wanted values depend on, in their order."""
    needed = set(computing(equations, (), wanted))
    return [equation for equation in equations if equation in needed]


def state_dtype(dtype: Any) -> Any:
    """The dtype in which a solver's state holds values: half precisions are float32 there.

    A projection moves its variables by far less than half precisions resolve.
    """
    return compute_dtype(dtype) if jnp.issubdtype(dtype, jnp.floating) else dtype


def widen(array: Array) -> Array:
    """An array in the dtype a state holds it in."""
    return array.astype(state_dtype(array.dtype))


def value_like(aval: Any) -> Value:
    """A fresh value of an abstract value's shape and dtype."""
    return Value(tuple(aval.shape), aval.dtype)


def abstract(value: Value) -> jax.ShapeDtypeStruct:
    """The shape and dtype of a value, as JAX wants them."""
    return jax.ShapeDtypeStruct(value.shape, value.dtype)
