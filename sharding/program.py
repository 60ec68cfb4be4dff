"""A compiled program, read from its text: its operations, and how often each of them runs."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

Array = tuple[str, tuple[int, ...]]
"""A dtype of XLA's and a shape."""

_ARRAY = re.compile(r"\b(pred|[a-z]+[0-9]+(?:e\dm\d\w*)?)\[([0-9,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_OPERATION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = ")
_CALLED = re.compile(r"\b(body|condition|calls|to_apply|branch_computations)=(?:\{([^}]*)\}|%?([\w.-]+))")
_TRIPS = re.compile(r"known_trip_count\W+n\W+(\d+)")
_SAME = ("copy", "bitcast", "convert", "reshape")
"""What hands a number on as it is."""


@dataclass(frozen=True)
class Operation:
    """One line of a program: `name = results kind(operands), attributes`.

    `operands`: names of other operations, or what a constant or the number of a parameter is.
    """

    name: str
    kind: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    line: str

    @classmethod
    def parse(cls, line: str) -> "Operation | None":
        """The operation of a line of a program's text; None for any other line."""
        found = _OPERATION.match(line)
        if found is None:
            return None
        rest = line[found.end() :]
        end = _closing(rest) if rest.startswith("(") else rest.find(" ")
        kind, bracket, given = rest[end:].strip().partition("(")
        if end < 0 or not bracket:
            return None
        inside = given[: _closing("(" + given) - 2]
        names = re.findall(r"%([\w.-]+)", inside)
        return cls(found[1], kind, arrays_in(rest[:end]), tuple(names or [inside]), line)

    def attribute(self, name: str) -> list[int]:
        """The numbers of an attribute such as `lhs_contracting_dims={1}`."""
        found = re.search(rf"\b{name}=\{{([\d,]*)\}}", self.line)
        return [int(x) for x in found[1].split(",") if x] if found else []

    def called(self) -> Iterator[tuple[str, str]]:
        """How, and which computations."""
        for role, several, one in _CALLED.findall(self.line):
            for name in (several or one).split(", "):
                yield role, name.lstrip("%")


Computation = Mapping[str, Operation]


@dataclass(frozen=True)
class Program:
    """`computations` by name, callees before their callers, each with its operations by name; the `entry`'s
    name."""

    computations: dict[str, Computation]
    entry: str

    @classmethod
    def parse(cls, text: str) -> "Program":
        """The program of `compiled.as_text()`."""
        found: dict[str, Any] = {}
        entry, current = "", ""
        for line in text.splitlines():
            if header := _COMPUTATION.match(line):
                current = header[2]
                found[current] = {}
                entry = current if header[1] else entry
            elif current and (operation := Operation.parse(line)) is not None:
                found[current][operation.name] = operation
        return cls(found, entry)

    @cached_property
    def times(self) -> dict[str, int]:
        """How often each computation runs in one run of the program; a loop whose length depends on values
        counts as one (`open_ended`)."""
        found = dict.fromkeys(self.computations, 0)
        found[self.entry] = 1
        for name, computation in reversed(self.computations.items()):
            for operation in computation.values():
                trips = (self.trips(name, operation) or 1) if operation.kind == "while" else 1
                for role, called in operation.called():
                    if called in found:
                        found[called] += found[name] * (trips if role == "body" else 1)
        return found

    @cached_property
    def looped(self) -> set[str]:
        """The computations that a loop repeats, directly or by calls."""
        return self._below({x for _, loop in self._loops() for _, x in loop.called()})

    @cached_property
    def open_ended(self) -> set[str]:
        """The computations that are repeated any number of times."""
        return self._below({x for loop in self._endless() for _, x in loop.called()})

    @property
    def open_loops(self) -> int:
        """How many loops have a length that depends on values."""
        return len(self._endless())

    def _endless(self) -> list[Operation]:
        return [loop for name, loop in self._loops() if self.trips(name, loop) is None]

    def _loops(self) -> Iterator[tuple[str, Operation]]:
        for name, computation in self.computations.items():
            for operation in computation.values():
                if operation.kind == "while":
                    yield name, operation

    def _below(self, found: set[str]) -> set[str]:
        for name, computation in reversed(self.computations.items()):
            if name in found:
                found.update(x for operation in computation.values() for _, x in operation.called())
        return found

    def trips(self, caller: str, loop: Operation) -> int | None:
        """How many iterations a loop has; None where that depends on values."""
        if found := _TRIPS.search(loop.line):
            return int(found[1])
        condition = dict(loop.called()).get("condition", "")
        test = root(self.computations.get(condition, {}))
        if test is None or test.kind != "compare" or "direction=LT" not in test.line:
            return None
        before = self.computations[caller]
        counter, limit = (self._number(self.computations[condition], x, before, loop) for x in test.operands)
        return None if counter is None or limit is None else max(0, limit - counter)

    def _number(self, inside: Computation, name: str, before: Computation, loop: Operation) -> int | None:
        """What an integer of a condition is before the first iteration."""
        found = _origin(inside, name)
        if found is not None and found.kind == "get-tuple-element":
            start = _origin(before, loop.operands[0])
            index = re.search(r"index=(\d+)", found.line)
            if start is None or start.kind != "tuple" or index is None:
                return None
            found = _origin(before, start.operands[int(index[1])])
        if found is None or found.kind != "constant" or not re.fullmatch(r"-?\d+", found.operands[0]):
            return None
        return int(found.operands[0])


def arrays_in(text: str) -> tuple[Array, ...]:
    """All arrays of a type."""
    return tuple(
        (dtype, tuple(int(size) for size in sizes.split(",") if size))
        for dtype, sizes in _ARRAY.findall(text)
    )


def _width(dtype: str) -> float:
    """Bytes of a number."""
    if dtype == "pred":
        return 1
    match = re.match(r"[a-z]+(\d+)", dtype)
    return int(match[1]) / 8 if match else 4


def size_of(arrays: Sequence[Array]) -> float:
    """Bytes of arrays."""
    return sum(_width(dtype) * math.prod(shape) for dtype, shape in arrays)


def root(computation: Computation) -> Operation | None:
    """What a computation gives back."""
    return next((x for x in computation.values() if x.line.lstrip().startswith("ROOT")), None)


def _origin(computation: Computation, name: str) -> Operation | None:
    found = computation.get(name)
    while found is not None and found.kind in _SAME:
        found = computation.get(found.operands[0])
    return found


def _closing(text: str) -> int:
    """Where the bracket that a text begins with is closed: the index after it."""
    depth = 0
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return index + 1
    return -1
