"""What values of a flat function are made of, as terms that patterns are compared with.

Two values are the same term if the same operations make them of the same values. Copies, conversions to the
dtype that a value has, divisions by one, sums over no axis, and movements that only add, remove or repeat
axes are left out: whoever matches terms checks axes on the equations. Operations on numbers written in the
program are carried out by NumPy, so that a number is the same term however it got its dtype and shape.
Nothing is compiled.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jax import lax

from .ir import Equation, Value

Detail = Literal["operations", "functions", "all"]

_MOVES = {lax.broadcast_in_dim_p, lax.copy_p, lax.reshape_p, lax.squeeze_p}
_SWAPPED = {lax.lt_p: lax.gt_p, lax.le_p: lax.ge_p}
_OF_NUMBERS: dict[Any, Callable[..., Any]] = {
    lax.add_p: np.add, lax.sub_p: np.subtract, lax.mul_p: np.multiply, lax.div_p: np.divide,
    lax.neg_p: np.negative, lax.max_p: np.maximum, lax.min_p: np.minimum, lax.gt_p: np.greater,
    lax.ge_p: np.greater_equal, lax.eq_p: np.equal, lax.ne_p: np.not_equal,
}  # fmt: skip
_NO_SHARDING = {"out_sharding", "sharding"}
_NO_SETTINGS = {"axes", "axis_index_groups", "out_sharding", "sharding", "weak_type"}
"""Parameters of equations that do not say which function it is, or that the axes tell."""


@dataclass(frozen=True, eq=False)
class Term:
    """An operation on terms, a number written in the program, or any other value.

    - `operation`: a primitive; None for the other two.
    - `settings`: its static parameters, but for those of axes.
    - `literal`: the number, a NumPy scalar in the dtype that it has there.
    """

    dtype: Any
    operation: Any = None
    settings: Any = ()
    arguments: tuple["Term", ...] = ()
    literal: Any = None

    @property
    def number(self) -> float:
        """The number of a literal."""
        return float(self.literal)

    def is_number(self, other: "Term") -> bool:
        """Whether two literals are the same number in the same dtype."""
        return (
            other.literal is not None
            and self.dtype == other.dtype
            and bool(self.literal == other.literal or (self.literal != self.literal) & _is_nan(other))
        )


def _is_nan(term: Term) -> bool:
    return bool(term.literal != term.literal)


def _over_positions(params: dict[str, Any]) -> bool:
    """Whether a collective is over whole axes that `jax.vmap` named."""
    return all(isinstance(axis, int) for axis in params["axes"]) and not params["axis_index_groups"]


def _plain(setting: Any) -> Any:
    """A setting that equals itself."""
    return "nan" if isinstance(setting, float) and setting != setting else setting


class Terms:
    """The terms of all values that some equations make, of equal ones the same object.

    `detail`: with "all" movements are terms too, and axes are settings: terms say all there is to say.
    With "operations" all conversions are left out.
    """

    def __init__(self, equations: Iterable[Equation], detail: Detail = "functions"):
        self._moves = {lax.copy_p} if detail == "all" else _MOVES
        self._not_said = _NO_SHARDING if detail == "all" else _NO_SETTINGS
        self._converts = detail != "operations"
        self._of: dict[Value, Term] = {}
        self._known: dict[Any, Term] = {}
        for equation in equations:
            if len(equation.outputs) == 1:
                self._of[equation.outputs[0]] = self._made(equation)

    def of(self, value: Value) -> Term:
        """The term of a value."""
        if value not in self._of:
            if value.literal is not None and np.size(value.literal) == 1:
                self._of[value] = self._number(np.asarray(value.literal, value.dtype))
            else:
                self._of[value] = Term(value.dtype)
        return self._of[value]

    @property
    def operations(self) -> frozenset[Any]:
        """The operations of all terms."""
        return frozenset(term.operation for term in self._of.values())

    def values_of(self, term: Term) -> list[Value]:
        """The values that are known to be a term."""
        return [value for value, other in self._of.items() if other is term]

    def _number(self, number: Any) -> Term:
        number = np.asarray(number).reshape(())[()]
        key = number.dtype, number.tobytes()
        return self._known.setdefault(key, Term(number.dtype, literal=number))

    def _made(self, equation: Equation) -> Term:
        operation, (output,) = equation.primitive, equation.outputs
        arguments = tuple(map(self.of, equation.inputs))
        if operation in _MOVES and arguments[0].literal is not None:
            return arguments[0]
        if operation in self._moves and len(arguments) == 1:
            return arguments[0]
        if operation is lax.convert_element_type_p and arguments[0].literal is None:
            if arguments[0].dtype == output.dtype or not self._converts:
                return arguments[0]
        if operation in _SWAPPED:
            operation, arguments = _SWAPPED[operation], arguments[::-1]
        if operation is lax.psum_p and _over_positions(equation.params):
            operation = lax.reduce_sum_p
        if operation is lax.reduce_sum_p and not equation.params["axes"]:
            return arguments[0]
        if operation is lax.div_p and arguments[1].literal is not None and arguments[1].literal == 1:
            return arguments[0]
        if operation is lax.select_n_p and arguments[0].literal is not None:
            return arguments[1 + int(arguments[0].literal)]
        if arguments and all(x.literal is not None for x in arguments):
            with np.errstate(all="ignore"):
                numbers = [x.literal for x in arguments]
                if operation is lax.convert_element_type_p:
                    return self._number(np.asarray(numbers[0]).astype(output.dtype))
                if operation in _OF_NUMBERS:
                    if operation is not lax.div_p or np.issubdtype(output.dtype, np.inexact):
                        return self._number(_OF_NUMBERS[operation](*numbers))
        settings = {k: _plain(v) for k, v in equation.params.items() if k not in _NO_SHARDING}
        if (operation is lax.integer_pow_p and settings["y"] == 2) or (
            operation is lax.mul_p and arguments[0] is arguments[1]
        ):
            operation, settings, arguments = lax.square_p, {}, arguments[:1]
        if operation is lax.square_p:
            settings = {}
        items = tuple(sorted(settings.items()))
        reduced = tuple(item for item in items if item[0] not in self._not_said)
        key = operation, items, arguments, () if arguments else (output.shape, output.dtype)
        try:
            return self._known.setdefault(key, Term(output.dtype, operation, reduced, arguments))
        except TypeError:  # parameters that cannot be compared
            return Term(output.dtype)
