"""Compares what a program computes with the trace of an example function."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax import lax

from .._compat import open_jaxpr
from .inline import Inliner
from .ir import value_like
from .terms import Detail, Term, Terms

Bindings = Mapping[Term, Term]
"""The terms of a program that stand for those of a pattern."""

_COMMUTATIVE = {lax.add_p, lax.and_p, lax.max_p, lax.min_p, lax.mul_p, lax.or_p}
PLACEHOLDERS = 0.40625, 1.59375, 2.71875
"""The parameters of an example while it is traced: numbers that every dtype has and no example contains."""


@dataclass(frozen=True, eq=False)
class Pattern:
    """The trace of an example function.

    - `output`: what it computes.
    - `inputs`: its arguments.
    - `parameters`: for each of its parameters the numbers that stand for it, one for each dtype it has.
    - `size`: how many operations it has.
    """

    output: Term
    inputs: tuple[Term, ...]
    parameters: tuple[tuple[Term, ...], ...]
    size: int

    def bind(self, term: Term, inputs: Sequence[Term] = ()) -> Bindings | None:
        """How the pattern is the term; None if it is not. `inputs`: what the arguments have to be."""
        start = dict(zip(self.inputs, inputs, strict=False))
        return next(_match([(self.output, term)], start, self._placeholders), None)

    def bind_loosely(self, term: Term) -> Iterator[Bindings]:
        """All ways in which the pattern is the term if only operations count."""
        return _match([(self.output, term)], {}, None)

    def read(self, bindings: Bindings) -> tuple[float, ...] | None:
        """The parameters; None where one has several values."""
        read = []
        for terms in self.parameters:
            numbers = {bindings[x].number for x in terms if x in bindings}
            if len(numbers) != 1:
                return None
            read.append(numbers.pop())
        return tuple(read)

    @property
    def _placeholders(self) -> frozenset[Term]:
        return frozenset(term for terms in self.parameters for term in terms)


def make_pattern(
    function: Callable[..., Any],
    arguments: Sequence[jax.ShapeDtypeStruct],
    placeholders: Sequence[float],
    detail: Detail = "functions",
) -> Pattern:
    """Traces `function(*arguments, *placeholders)`, where every number equal to a placeholder is a parameter.

    The settings of the program that is compared do not matter, but for `jax_enable_x64`.
    """
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        closed = jax.make_jaxpr(lambda *xs: function(*xs, *placeholders))(*arguments)
    inliner = Inliner()
    values = [value_like(x) for x in arguments]
    (output,) = inliner.walk(*open_jaxpr(closed), values)
    assert not inliner.baked, f"an example has an array {closed}"
    terms = Terms(inliner.equations, detail)
    inputs = tuple(map(terms.of, values))
    inside = _inside(terms.of(output))
    parameters = tuple(
        tuple(x for x in inside if x.literal is not None and x.literal == number) for number in placeholders
    )
    assert all(parameters), f"a parameter of an example is not in its trace {closed}"
    size = sum(x.operation is not None for x in inside)
    return Pattern(terms.of(output), inputs, parameters, size)


def _inside(term: Term) -> list[Term]:
    seen: dict[Term, None] = {}
    left = [term]
    while left:
        term = left.pop()
        if term not in seen:
            seen[term] = None
            left.extend(term.arguments)
    return list(seen)


def _match(
    pairs: list[tuple[Term, Term]], found: dict[Term, Term], placeholders: frozenset[Term] | None
) -> Iterator[Bindings]:
    """All ways in which the terms of each pair are the same; without placeholders, in their operations."""
    if not pairs:
        yield found
        return
    (pattern, term), *rest = pairs
    if pattern in found:
        if found[pattern] is term:
            yield from _match(rest, found, placeholders)
        return
    loose = placeholders is None
    if pattern.dtype != term.dtype and not loose:
        return
    bound = {**found, pattern: term}
    if pattern.literal is not None:
        any_number = placeholders is None or pattern in placeholders
        if term.literal is not None if any_number else pattern.is_number(term):
            yield from _match(rest, bound, placeholders)
    elif pattern.operation is None:
        yield from _match(rest, bound, placeholders)
    elif (
        pattern.operation is term.operation
        and (loose or pattern.settings == term.settings)
        and len(pattern.arguments) == len(term.arguments)
    ):
        orders = [term.arguments]
        if pattern.operation in _COMMUTATIVE and term.arguments[0] is not term.arguments[1]:
            orders.append(term.arguments[::-1])
        for order in orders:
            yield from _match([*zip(pattern.arguments, order, strict=True), *rest], bound, placeholders)


def has_patterns(dtype: Any) -> bool:
    """Whether patterns exist in a dtype."""
    return getattr(dtype, "name", str(dtype)) in ("bfloat16", "float16", "float32", "float64")
