"""What a row of the table says, and rows whose set is a graph."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import pjax_prim.primitives as pp

Rows = tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class Case:
    """One projection; a row is equal to itself alone.

    - `project(*operands)`: the public function on one query, returning a tuple.
    - `operands`: the kind of each: "vector", "scalar", "labels", "weights", "share" (from 0 to 1) or
      "step" (above zero).
    - `moved`: how many operands, the first ones, are projected; the others are constants, but
      for one that is the queried output.
    - `cost(query, outputs, unit)`: the squared distance of returned points, where `unit` is the
      rounding of the query; it only decides on which piece a point at an edge lies.
    - `best(*query)`: the least squared distance.
    - `size(*operands)`: the magnitude of the terms of the output.
    - `feasible(*query)`: the query moved into the set.
    - `kinked`: whether the set has edges, where rounding counts in first order.
    - `count`: how many random queries to test.
    - `long`: the length of a long vector, for which `best` is fast enough.
    """

    name: str
    project: Callable[..., tuple[Any, ...]]
    definition: pp.Definition
    operands: tuple[str, ...]
    moved: int
    cost: Callable[[Rows, Rows, np.ndarray], np.ndarray]
    best: Callable[..., np.ndarray]
    size: Callable[..., np.ndarray]
    feasible: Callable[..., Rows]
    kinked: bool = False
    static: dict[str, Any] = field(default_factory=dict)
    count: int = 2000
    long: int = 4096

    def __str__(self) -> str:
        settings = ",".join(f"{key}={value}" for key, value in self.static.items())
        return f"{self.name}({settings})" if settings else self.name

    @property
    def sizes(self) -> tuple[int, ...]:
        """The lengths of vectors to test."""
        if "vector" not in self.operands:
            return (1,)
        return (1, 2, 5) if self.name != "prox_cross_entropy" else (1, 2, 10)

    def random(self, rng: np.random.Generator, count: int, n: int) -> Rows:
        """Queries from the normal distribution, every other one on another scale."""
        scale = np.where(rng.random(count) < 0.5, 1.0, 10 ** rng.uniform(-2, 2, count))
        return tuple(self._draw(kind, rng, scale, n) for kind in self.operands)

    def hostile(self, rng: np.random.Generator, count: int, n: int) -> Rows:
        """Zeros, ties, parallel and antiparallel operands, far targets, mixed scales, the set."""
        families = 10
        each = -(-count // families)
        scale = 10 ** rng.uniform(-6, 6, each)
        same = [self._draw(kind, rng, scale, n) for kind in self.operands]
        mixed = [self._draw(kind, rng, 10 ** rng.uniform(-6, 6, each), n) for kind in self.operands]
        blocks = [
            self._keep(same, [np.zeros_like(x) for x in same]),
            self._keep(same, [x * (rng.random(x.shape) < 0.5) for x in same]),
            self._keep(same, [np.broadcast_to(x.reshape(each, -1)[:, :1].reshape(each, *[1] * (x.ndim - 1)),
                                              x.shape) for x in same]),
            self._aligned(same, 1),
            self._aligned(same, -1),
            [x * np.reshape(10 ** rng.uniform(0, 6, each), (each, *[1] * (x.ndim - 1)))
             if kind == "scalar" and i >= self.moved else x
             for i, (kind, x) in enumerate(zip(self.operands, same, strict=True))],
            mixed,
            self._keep(same, [np.round(x / scale.reshape(each, *[1] * (x.ndim - 1)) * 2) for x in same]),
            self._keep(same, [np.abs(x) for x in same]),
            list(self.feasible(*mixed)),
        ]  # fmt: skip
        return tuple(np.concatenate(column)[:count] for column in zip(*blocks, strict=True))

    def _draw(self, kind: str, rng: np.random.Generator, scale: np.ndarray, n: int) -> np.ndarray:
        count = len(scale)
        if kind == "scalar":
            return scale * rng.standard_normal(count)
        if kind == "share":
            return np.where(rng.random(count) < 0.5, rng.integers(0, 2, count), rng.random(count))
        if kind == "step":
            return scale * 10 ** rng.uniform(-1, 1, count)
        if kind == "vector":
            return scale[:, None] * rng.standard_normal((count, n))
        one_hot = np.eye(n)[rng.integers(0, n, count)]
        if kind == "labels":
            return one_hot
        smooth = rng.dirichlet(np.ones(n), count)
        return np.where(rng.random((count, 1)) < 0.7, one_hot, smooth)

    def _keep(self, same: list[np.ndarray], other: list[np.ndarray]) -> list[np.ndarray]:
        labels = ("labels", "weights", "share", "step")
        return [s if k in labels else o for k, s, o in zip(self.operands, same, other, strict=True)]

    def _aligned(self, same: list[np.ndarray], sign: int) -> list[np.ndarray]:
        """Moved operands of one kind are made (anti)parallel, by a length of 1 or near it."""
        rows = list(same)
        for i in (i for i in range(1, self.moved) if self.operands[i] == self.operands[0]):
            length = np.where(np.arange(len(same[0])) % 2 == 0, 1, 1 + 1e-6)
            rows[i] = sign * same[0] * length.reshape(-1, *[1] * (same[0].ndim - 1))
        return rows


def norm2(*arrays: np.ndarray) -> np.ndarray:
    """The sum of squares of each row."""
    return sum(np.sum(np.square(x.reshape(len(x), -1)), -1) for x in arrays)


def search(f: Callable[[np.ndarray], np.ndarray], low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The least value of a function that is convex between `low` and `high`, by golden section."""
    ratio = (np.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = f(left), f(right)
    for _ in range(120):
        smaller = at_left <= at_right
        low, high = np.where(smaller, low, left), np.where(smaller, right, high)
        # One of the two points inside is inside again.
        kept, at_kept = np.where(smaller, left, right), np.where(smaller, at_left, at_right)
        new = np.where(smaller, high - ratio * (high - low), low + ratio * (high - low))
        at_new = f(new)
        left, right = np.where(smaller, new, kept), np.where(smaller, kept, new)
        at_left, at_right = np.where(smaller, at_new, at_kept), np.where(smaller, at_kept, at_new)
    return np.minimum.reduce([f(low), f(high), f((low + high) / 2), at_left, at_right])


def around_minima(x: np.ndarray, costs: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The ends of brackets around the cheapest local minima of rows of costs at increasing x."""
    edge = np.full((len(x), 1), np.inf)
    before, after = np.hstack([edge, costs[:, :-1]]), np.hstack([costs[:, 1:], edge])
    minima = np.where((costs <= before) & (costs <= after), costs, np.inf)
    order = np.argsort(minima, 1)[:, :count]
    # Two on either side: neighbours may be equal.
    low = np.take_along_axis(x, np.maximum(order - 2, 0), 1)
    return low, np.take_along_axis(x, np.minimum(order + 2, x.shape[1] - 1), 1)


def graph_cost(f: Callable[..., np.ndarray], moved: int, output: int) -> Callable[..., np.ndarray]:
    """The cost of the graph of f, which takes the moved operands and the constants."""

    def cost(query: Rows, outputs: Rows, unit: np.ndarray) -> np.ndarray:
        constants = query[moved:output] + query[output + 1 :]
        moves = [x - q for x, q in zip(outputs, query, strict=False)]
        return norm2(*moves) + (f(*outputs, *constants) - query[output]) ** 2

    return cost


def on_graph(f: Callable[..., np.ndarray], moved: int, output: int) -> Callable[..., Rows]:
    def feasible(*query: np.ndarray) -> Rows:
        value = f(*query[:moved], *query[moved:output], *query[output + 1 :])
        return (*query[:output], value, *query[output + 1 :])

    return feasible


def graph(
    name: str,
    project: Callable[..., tuple[Any, ...]],
    definition: pp.Definition,
    operands: tuple[str, ...],
    f: Callable[..., np.ndarray],
    best: Callable[..., np.ndarray],
    size: Callable[..., np.ndarray],
    *,
    moved: int,
    output: int | None = None,
    **settings: Any,
) -> Case:
    """A row whose set is the graph of f; `output` is the position of the queried output."""
    at = moved if output is None else output
    cost, feasible = graph_cost(f, moved, at), on_graph(f, moved, at)
    return Case(name, project, definition, operands, moved, cost, best, size, feasible, **settings)


def absolute_sum(*rows: np.ndarray) -> np.ndarray:
    return sum(np.sum(np.abs(x.reshape(len(x), -1)), -1) for x in rows)
