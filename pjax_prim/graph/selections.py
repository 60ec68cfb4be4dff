"""`jnp.where` with comparisons of values that depend on parameters becomes choices by one comparison each.

A choice by p and q is one by p among (one by q) and what both say without it, so that predicates made of
comparisons with `&`, `|` and `~` are chains of choices. Parts of a predicate that are data stay data.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from jax import lax

from .. import primitives as pp
from .ir import Equation, Value

_COMPARISONS = {lax.gt_p: "gt", lax.ge_p: "ge", lax.lt_p: "lt", lax.le_p: "le"}
_MOVES = {
    lax.broadcast_in_dim_p, lax.reshape_p, lax.squeeze_p, lax.transpose_p, lax.slice_p, lax.copy_p, lax.rev_p
}  # fmt: skip
_LARGEST = 16
"""Comparisons in one predicate: a chain doubles what it chooses between."""


def select(equations: Iterable[Equation], varying: set[Value]) -> list[Equation]:
    """The equations with selections by comparisons in place of those whose predicate depends on parameters.

    Predicates of another kind stay, and have no rule.
    """
    made_by: dict[Value, Equation] = {}
    result: list[Equation] = []
    for equation in equations:
        made_by.update((value, equation) for value in equation.outputs)
        if equation.primitive is lax.select_n_p and equation.inputs[0] in varying:
            if len(equation.inputs) == 3:
                choice = _Choice(equation, made_by, varying)
                if 0 < choice.count(equation.inputs[0]) <= _LARGEST:
                    result.extend(choice.equations())
                    continue
        result.append(equation)
    return result


@dataclass(frozen=True)
class _Choice:
    """What a select equation is made of."""

    equation: Equation
    made_by: dict[Value, Equation]
    varying: set[Value]

    def count(self, predicate: Value) -> int:
        """How many choices a predicate makes; more than are allowed if it is of another kind."""
        if predicate not in self.varying:
            return 1
        made = self.made_by.get(predicate)
        if made is None:
            return _LARGEST + 1
        if made.primitive in _MOVES and len(made.inputs) == 1:
            return self.count(made.inputs[0])
        if made.primitive in (lax.and_p, lax.or_p):
            return sum(map(self.count, made.inputs))
        if made.primitive is lax.not_p:
            return self.count(made.inputs[0])
        return 1 if made.primitive in _COMPARISONS or _always(made) is not None else _LARGEST + 1

    def equations(self) -> list[Equation]:
        """The choices in order; the last makes the select equation's output."""
        predicate, when_false, when_true = self.equation.inputs
        found: list[Equation] = []
        chosen = self._choose(predicate, when_true, when_false, found, ())
        if found and found[-1].outputs[0] is chosen:
            found[-1] = replace(found[-1], outputs=self.equation.outputs)
        else:
            copy = replace(self.equation, primitive=lax.copy_p, params={}, inputs=(chosen,), apply=_copy)
            found.append(copy)
        return found

    def _choose(
        self, predicate: Value, yes: Value, no: Value, found: list[Equation], path: tuple[Equation, ...]
    ) -> Value:
        """Appends the choices between two values; returns what they make.

        **Arguments:** `path`, movements of the predicate on the way to the select equation, the last first.
        """
        if predicate not in self.varying:
            moved = self._moved(predicate, predicate.shape, path, found)
            return self._add(found, lax.select_n_p, (moved, no, yes), _select_n)
        made = self.made_by[predicate]
        if made.primitive in _MOVES:
            return self._choose(made.inputs[0], yes, no, found, (*path, made))
        if made.primitive is lax.not_p:
            return self._choose(made.inputs[0], no, yes, found, path)
        if made.primitive is lax.and_p:
            first, second = made.inputs
            return self._choose(first, self._choose(second, yes, no, found, path), no, found, path)
        if made.primitive is lax.or_p:
            first, second = made.inputs
            return self._choose(first, yes, self._choose(second, yes, no, found, path), found, path)
        always = _always(made)
        if always is not None:
            return yes if always else no
        params = {"compare": _COMPARISONS[made.primitive]}
        apply = partial(pp.select_p.bind, **params)
        compared = (self._moved(value, predicate.shape, path, found) for value in made.inputs)
        return self._add(found, pp.select_p.primitive, (*compared, yes, no), apply, params)

    @staticmethod
    def _moved(
        value: Value, shape: tuple[int, ...], path: tuple[Equation, ...], found: list[Equation]
    ) -> Value:
        """What is compared, moved as the predicate is; numbers stay where they are."""
        if value.shape != shape or value.literal is not None:
            return value
        for move in reversed(path):
            moved = Value(move.outputs[0].shape, value.dtype)
            found.append(replace(move, inputs=(value,), outputs=(moved,)))
            value = moved
        return value

    def _add(
        self,
        found: list[Equation],
        primitive: Any,
        inputs: tuple[Value, ...],
        apply: Any,
        params: dict[str, Any] | None = None,
    ) -> Value:
        (output,) = self.equation.outputs
        made = Value(output.shape, output.dtype)
        found.append(
            replace(
                self.equation, primitive=primitive, params=params or {}, inputs=inputs, outputs=(made,),
                apply=apply,
            )
        )  # fmt: skip
        return made


def _always(comparison: Equation) -> bool | None:
    """What a question always has as its answer, because iterates are finite; None if it may be either."""
    if comparison.primitive is lax.is_finite_p:
        return True
    if comparison.primitive is lax.ne_p and comparison.inputs[0] is comparison.inputs[1]:
        return False
    return None


def _copy(x: Any) -> tuple[Any]:
    return (x,)


def _select_n(*arrays: Any) -> tuple[Any]:
    return (lax.select_n(*arrays),)
