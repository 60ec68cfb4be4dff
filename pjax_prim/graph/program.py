"""A traced function without its numbers, and whether two of them are the same."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

from .._compat import is_traced, open_jaxpr, without_constants, wrapped_parts
from ..errors import GraphError

_NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


def trace(function: Callable[..., Sequence[Any]], *arguments: Any) -> Any:
    """`jax.make_jaxpr(function)(*arguments)`.

    **Errors:** `GraphError` if the function needs the values of its arguments.
    """
    try:
        return jax.make_jaxpr(function)(*arguments)
    except _NEEDS_VALUES as error:
        raise GraphError(
            "fn: a shape, an index into Python, or a branch needs the value of a traced array, which is "
            "known only when the program runs: use jnp.where, masks and fixed shapes, or compute it from "
            f"Python numbers ({str(error).splitlines()[0]})"
        ) from error


@dataclass(frozen=True, eq=False)
class Program:
    """A traced function of parameters and data; what it closes over is one more operand.

    Two programs are equal if they compute the same from equal arrays: their equations, parameters, literals,
    shapes, dtypes and shardings are.

    - `jaxpr`: of the parameters, then the data; open.
    - `parameters`: how many of its inputs are parameters.
    - `names`: of the parameters.
    - `results`: how many of its first outputs are returned for their value; the others are auxiliary.
    - `key`: what is compared.
    - `is_pure`: whether no inner function carries a traced array, so that it may outlive its trace.
    """

    jaxpr: Any
    parameters: int
    names: tuple[str, ...]
    results: int
    key: tuple[Any, ...]
    is_pure: bool

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def make_program(
    closed: Any, parameters: int, names: Sequence[str], results: int
) -> tuple[Program, list[Any]]:
    """A program from its jaxpr, and the arrays that the function closes over."""
    jaxpr, constants = open_jaxpr(closed)
    held: list[Any] = []
    body = _key_of(jaxpr, held)
    key = (body, parameters, tuple(names), results)
    is_pure = not any(is_traced(x) for x in held)
    program = Program(without_constants(jaxpr), parameters, tuple(names), results, key, is_pure)
    return program, list(constants)


class _Same:
    """Compares what it holds by identity, and keeps it, so that no other takes its place in memory."""

    def __init__(self, held: Any):
        self.held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.held is other.held

    def __hash__(self) -> int:
        return id(self.held)


def _key_of(jaxpr: Any, held: list[Any]) -> tuple[Any, ...]:
    """The structure of a jaxpr, with its variables numbered.

    Arrays that inner functions carry are compared by identity, and collected in `held`.
    """
    numbers: dict[Any, int] = {}

    def number(variable: Any) -> int:
        return numbers.setdefault(variable, len(numbers))

    def atom(x: Any) -> Any:
        if not isinstance(x, Literal):
            return number(x)
        value = np.asarray(x.val)
        return (value.tobytes(), value.shape, str(value.dtype), x.aval)  # -0.0 is not 0.0

    inputs = tuple((number(x), x.aval) for x in (*jaxpr.constvars, *jaxpr.invars))
    equations = tuple(
        (
            equation.primitive,
            tuple(map(atom, equation.invars)),
            tuple((number(x), x.aval) for x in equation.outvars),
            tuple((name, _value_key(value, held)) for name, value in sorted(equation.params.items())),
        )
        for equation in jaxpr.eqns
    )
    return inputs, equations, tuple(map(atom, jaxpr.outvars))


def _value_key(value: Any, held: list[Any]) -> Any:
    """What tells a parameter of an equation from others."""
    if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
        jaxpr, constants = open_jaxpr(value)
        held.extend(constants)
        return _key_of(jaxpr, held), tuple(map(_Same, constants))
    if isinstance(value, tuple | list):
        return type(value), tuple(_value_key(x, held) for x in value)
    if isinstance(value, bool | int | float | complex):
        return type(value), repr(value)  # 3 is not 3.0, and nan is itself
    if wrapped_parts(value) is not None or callable(value):
        return _Functions(held).key(value, False)
    try:
        hash(value)
    except TypeError:
        return _Same(value)
    return value


class _Functions:
    """Keys of functions: code and what it closes over. One made anew by the same line is the same.

    What JAX's own functions hold besides functions, arrays and numbers are caches and traces, which tell
    nothing of what they compute.
    """

    def __init__(self, held: list[Any]):
        self.held = held
        self._seen: set[int] = set()

    def key(self, value: Any, inside_jax: bool) -> Any:
        if isinstance(value, tuple | list):
            return type(value), tuple(self.key(x, inside_jax) for x in value)
        if isinstance(value, bool | int | float | complex | str | type(None)):
            return type(value), repr(value)
        if is_traced(value):
            self.held.append(value)
        found = self._parts(value)
        if found is None:
            is_array = isinstance(value, jax.Array | np.ndarray)
            return type(value) if inside_jax and not is_array else _Same(value)
        if id(value) in self._seen:
            return None
        self._seen.add(id(value))
        own, parts = found
        module = str(getattr(value, "__module__", ""))
        inside = module.partition(".")[0] == "jax" or wrapped_parts(value) is not None
        return own, tuple(self.key(part, inside) for part in parts)

    def _parts(self, value: Any) -> tuple[Any, tuple[Any, ...]] | None:
        """What a function is beside other functions and values, and these; None for what is none."""
        if (wrapped := wrapped_parts(value)) is not None:
            return type(value), wrapped
        if isinstance(value, partial):
            return tuple(value.keywords), (value.func, *value.args, *value.keywords.values())
        if isinstance(value, types.MethodType):
            return "method", (value.__func__, value.__self__)
        if not isinstance(value, types.FunctionType):
            return None
        defaults = (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
        return value.__code__, (*map(_contents, value.__closure__ or ()), *defaults)


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None
