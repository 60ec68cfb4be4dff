"""The table of projections: one row each, with queries and an independent slow minimiser.

All numbers here are float64 NumPy with a leading batch axis. A minimiser shares nothing with the
library: distances to hyperplanes, exhaustive search over pieces, one- and two-dimensional
searches, bisection with SciPy's Wright omega function.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from scipy.special import wrightomega

import pjax_prim.primitives as pp

Rows = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Case:
    """One projection.

    - `project(*operands)`: the public function on one query, returning a tuple.
    - `operands`: the kind of each: "vector", "scalar", "labels" or "weights".
    - `moved`: how many operands, the first ones, are projected; the others are constants, but
      for one that is the queried output.
    - `cost(query, outputs, unit)`: the squared distance of returned points, where `unit` is the
      rounding of the query; it only decides on which piece a point at an edge lies.
    - `best(*query)`: the least squared distance.
    - `size(*operands)`: the magnitude of the terms of the output.
    - `feasible(*query)`: the query moved into the set.
    - `kinked`: whether the set has edges, where rounding counts in first order.
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
        if kind == "vector":
            return scale[:, None] * rng.standard_normal((count, n))
        one_hot = np.eye(n)[rng.integers(0, n, count)]
        if kind == "labels":
            return one_hot
        smooth = rng.dirichlet(np.ones(n), count)
        return np.where(rng.random((count, 1)) < 0.7, one_hot, smooth)

    def _keep(self, same: list[np.ndarray], other: list[np.ndarray]) -> list[np.ndarray]:
        labels = ("labels", "weights")
        return [s if k in labels else o for k, s, o in zip(self.operands, same, other, strict=True)]

    def _aligned(self, same: list[np.ndarray], sign: int) -> list[np.ndarray]:
        """Moved operands of one kind are made (anti)parallel, by a length of 1 or near it."""
        rows = list(same)
        for i in range(1, self.moved):
            length = np.where(np.arange(len(same[0])) % 2 == 0, 1, 1 + 1e-6)
            rows[i] = sign * same[0] * length.reshape(-1, *[1] * (same[0].ndim - 1))
        return rows


def norm2(*arrays: np.ndarray) -> np.ndarray:
    """The sum of squares of each row."""
    return sum(np.sum(np.square(x.reshape(len(x), -1)), -1) for x in arrays)


def search(f: Callable[[np.ndarray], np.ndarray], low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The least value of a function that is convex between `low` and `high`, by golden section."""
    ratio = (np.sqrt(5) - 1) / 2
    for _ in range(120):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        smaller = f(left) <= f(right)
        low, high = np.where(smaller, low, left), np.where(smaller, right, high)
    return np.minimum.reduce([f(low), f(high), f((low + high) / 2)])


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


# Hyperplanes: the squared distance is the squared residual over the squared norm of the normal.


def hyperplane(*terms: tuple[Any, np.ndarray]) -> np.ndarray:
    """`terms`: pairs (coefficient, coordinate) of the equation, the output with -1."""
    residual, normal = np.longdouble(0), np.longdouble(0)
    for c, x in terms:
        c, x = np.longdouble(c), x.astype(np.longdouble)
        axes = tuple(range(1, x.ndim))
        residual = residual + np.sum(c * x, axes)
        normal = normal + np.sum(c * c * np.ones_like(x), axes)
    return (residual**2 / normal).astype(np.float64)


def best_affine(a: np.ndarray, c: np.ndarray, z: np.ndarray, o: np.ndarray) -> np.ndarray:
    residual = np.sum(np.longdouble(c) * a, -1) + o - z
    return (residual**2 / (1 + np.sum(np.longdouble(c) ** 2, -1))).astype(np.float64)


def best_scale(a: np.ndarray, f: np.ndarray, z: np.ndarray, o: np.ndarray) -> np.ndarray:
    return best_affine(a[:, None], f[:, None], z, o)


# Pieces: exhaustive search.


def best_max(a: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Every set of entries moved to a common value, or, for long vectors, every common value."""
    n = a.shape[-1]

    def value(x: np.ndarray) -> np.ndarray:
        return np.sum((x - a) ** 2, -1) + (np.max(x, -1) - z) ** 2

    if n > 6:
        top = np.argmax(a, -1)[:, None] == np.arange(n)

        def at(y: np.ndarray) -> np.ndarray:
            return value(np.where(top, y[:, None], np.minimum(a, y[:, None])))

        return search(at, np.minimum(a.min(-1), z), np.maximum(a.max(-1), z))
    costs = []
    for subset in product([False, True], repeat=n):
        chosen = np.array(subset)
        y = (z + np.sum(np.where(chosen, a, 0), -1)) / (1 + chosen.sum())
        costs.append(value(np.where(chosen, y[:, None], a)))
    return np.minimum.reduce(costs)


def best_sum_relu(*rows: np.ndarray) -> np.ndarray:
    """The cost as a function of the new sum, convex on either side of zero."""
    *inputs, z = rows
    s, k = sum(inputs), len(inputs)

    def at(total: np.ndarray) -> np.ndarray:
        return (total - s) ** 2 / k + (np.maximum(total, 0) - z) ** 2

    far = np.abs(s) + np.abs(z)
    stay = np.where(s <= 0, z**2, (s - z) ** 2)
    return np.minimum.reduce([search(at, -far, 0 * s), search(at, 0 * s, far), at(0 * s), stay])


def intervals(levels: int, scale: float) -> list[tuple[float, float, float]]:
    """(lower end, upper end, level) of every piece of the quantizer."""
    values = np.linspace(-scale, scale, levels)
    ends = [-np.inf, *((values[1:] + values[:-1]) / 2), np.inf]
    return [(ends[j], ends[j + 1], values[j]) for j in range(levels)]


def best_pieces(pieces: list[tuple[float, float, float]]) -> Callable[..., np.ndarray]:
    def best(a: np.ndarray, z: np.ndarray) -> np.ndarray:
        return np.minimum.reduce([(a - np.clip(a, low, high)) ** 2 + (q - z) ** 2 for low, high, q in pieces])

    return best


def piece_cost(pieces: list[tuple[float, float, float]]) -> Callable[..., np.ndarray]:
    def cost(query: Rows, outputs: Rows, unit: np.ndarray) -> np.ndarray:
        (a, z), (x,) = query, outputs
        costs = [
            np.where((x >= low - unit) & (x <= high + unit), (q - z) ** 2, np.inf) for low, high, q in pieces
        ]
        return (x - a) ** 2 + np.minimum.reduce(costs)

    return cost


def pieces_case(
    name: str,
    project: Callable[..., tuple[Any, ...]],
    definition: pp.Definition,
    pieces: list[tuple[float, float, float]],
    **static: Any,
) -> Case:
    span = max(abs(q) for _, _, q in pieces)

    def feasible(a: np.ndarray, z: np.ndarray) -> Rows:
        level = sum(np.where((a >= low) & (a < high), q, 0) for low, high, q in pieces)
        return a, level

    return Case(
        name, project, definition, ("scalar", "scalar"), 1, piece_cost(pieces), best_pieces(pieces),
        lambda a, z: np.abs(a) + span, feasible, kinked=True, static=static,
    )  # fmt: skip


# Products.


def best_dot(a: np.ndarray, b: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The greatest lower bound that convex duality gives.

    The cost depends on the squared lengths U, V of (a + b)/sqrt 2 and (a - b)/sqrt 2 alone, as
    (sqrt U - |s|)^2 + (sqrt V - |d|)^2 + ((U - V)/2 - z)^2, which is convex in them: its Lagrange
    dual, concave in a multiplier between -1 and 1, has the same optimum.
    """
    long, short = norm2(a + b) / 2, norm2(a - b) / 2
    residual = (np.sum(a.astype(np.longdouble) * b, -1) - z).astype(np.float64)

    def minus_dual(logit: np.ndarray) -> np.ndarray:
        plus, minus = 2 / (1 + np.exp(-logit)), 2 / (1 + np.exp(logit))  # 1 + and 1 - multiplier
        multiplier = np.tanh(logit / 2)
        curvature = 1 + long / plus + short / minus
        return multiplier**2 * curvature - 2 * multiplier * residual

    return np.maximum(-search(minus_dual, np.full(len(z), -80.0), np.full(len(z), 80.0)), 0)


def best_product(a: np.ndarray, b: np.ndarray, z: np.ndarray) -> np.ndarray:
    return best_dot(a[:, None], b[:, None], z)


# Losses.


def margin_bounds(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    positive = labels > 0
    return np.where(positive, labels, -np.inf), np.where(positive, np.inf, 0)


def best_margin(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    low, high = margin_bounds(labels)
    return norm2(np.maximum(np.maximum(low - logits, logits - high), 0))


def margin_cost(query: Rows, outputs: Rows, unit: np.ndarray) -> np.ndarray:
    low, high = margin_bounds(query[1])
    inside = ((outputs[0] >= low) & (outputs[0] <= high)).all(-1)
    return np.where(inside, norm2(outputs[0] - query[0]), np.inf)


def cross_entropy(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The sum of y_j log(sum_k exp(x_k - x_j)), to the last digits where it is near zero too."""
    gaps = x[:, None, :] - x[:, :, None]
    off = np.where(np.eye(x.shape[-1], dtype=bool), -np.inf, gaps)
    top = np.maximum(np.max(off, -1, initial=-np.inf), -700)
    others = np.log(np.maximum(np.sum(np.exp(off - top[..., None]), -1), 1e-300)) + top
    return np.sum(y * np.logaddexp(0, others), -1)


def best_cross_entropy(lam: float) -> Callable[..., np.ndarray]:
    """The stationary point by bisection on the log-partition: sum_i omega(b + c_i) = lambda Y."""

    def best(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        n = logits.shape[-1]
        total = np.maximum(np.sum(labels, -1, keepdims=True), 1e-300)
        c = logits + lam * labels
        c = c - c.max(-1, keepdims=True)
        low = np.log(lam * total / n) + lam * total / n - 1
        high = np.log(lam * total) + lam * total + 1
        for _ in range(80):
            middle = (low + high) / 2
            above = np.sum(wrightomega(middle + c), -1, keepdims=True) > lam * total
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        p = wrightomega((low + high) / 2 + c) / (lam * total)
        others = np.sum(np.where(np.eye(n, dtype=bool), 0, p[:, None, :]), -1)
        x = logits + lam * (labels * others - (total - labels) * p)
        at_start = 2 * lam * cross_entropy(logits, labels)
        return np.minimum(norm2(x - logits) + 2 * lam * cross_entropy(x, labels), at_start)

    return best


def prox_cost(loss: Callable[..., np.ndarray], lam: float) -> Callable[..., np.ndarray]:
    def cost(query: Rows, outputs: Rows, unit: np.ndarray) -> np.ndarray:
        return norm2(outputs[0] - query[0]) + 2 * lam * loss(outputs[0], query[1])

    return cost


def cross_entropy_case(lam: float) -> Case:
    return Case(
        "prox_cross_entropy",
        lambda logits, labels: (pp.prox_cross_entropy(logits, labels, lam=lam),),
        pp.prox_cross_entropy_p,
        ("vector", "weights"),
        1,
        prox_cost(cross_entropy, lam),
        best_cross_entropy(lam),
        lambda x, y: np.sqrt(norm2(x) * (1 + lam / 2)),
        lambda x, y: (x, np.zeros_like(y)),
        static={"lam": lam},
    )


def squared_error_case(lam: float) -> Case:
    return Case(
        "prox_squared_error",
        lambda x, target: (pp.prox_squared_error(x, target, lam=lam),),
        pp.prox_squared_error_p,
        ("scalar", "scalar"),
        1,
        prox_cost(lambda x, t: (x - t) ** 2 / 2, lam),
        lambda x, t: (x - t) ** 2 * lam / (1 + lam),
        lambda x, t: (np.abs(x) + np.abs(t)) * max(1, lam) ** 0.5,
        lambda x, t: (x, x),
        static={"lam": lam},
    )


def absolute_sum(*rows: np.ndarray) -> np.ndarray:
    return sum(np.sum(np.abs(x.reshape(len(x), -1)), -1) for x in rows)


def combination_case(*coefficients: float) -> Case:
    def value(*rows: np.ndarray) -> np.ndarray:
        return sum(c * x for c, x in zip(coefficients, rows, strict=True))

    k = len(coefficients)
    return graph(
        "project_combination",
        lambda *rows: pp.project_combination(rows[:-1], rows[-1], coefficients),
        pp.project_combination_p,
        ("scalar",) * (k + 1),
        value,
        lambda *rows: hyperplane(*zip((*coefficients, -1.0), rows, strict=True)),
        lambda *rows: absolute_sum(*(max(1, abs(c)) * x for c, x in zip(coefficients, rows, strict=False))),
        moved=k,
        static={"coefficients": coefficients},
    )


def sum_relu_case(k: int) -> Case:
    return graph(
        "project_sum_relu",
        lambda *rows: pp.project_sum_relu(rows[:-1], rows[-1]),
        pp.project_sum_relu_p,
        ("scalar",) * (k + 1),
        lambda *rows: np.maximum(sum(rows), 0),
        best_sum_relu,
        absolute_sum,
        moved=k,
        kinked=True,
    )


def quantize_case(levels: int, scale: float) -> Case:
    return pieces_case(
        "project_quantize",
        lambda a, z: (pp.project_quantize(a, z, levels, scale),),
        pp.project_quantize_p,
        intervals(levels, scale),
        levels=levels,
        scale=scale,
    )


CASES = [
    graph(
        "project_identity", lambda a, z: (pp.project_identity(a, z),), pp.project_identity_p,
        ("scalar", "scalar"), lambda a: a, lambda a, z: hyperplane((1.0, a), (-1.0, z)),
        absolute_sum, moved=1,
    ),
    graph(
        "project_sum", lambda a, z: (pp.project_sum(a, z),), pp.project_sum_p,
        ("vector", "scalar"), lambda a: np.sum(a, -1),
        lambda a, z: hyperplane((1.0, a), (-1.0, z)), absolute_sum, moved=1,
    ),
    graph(
        "project_mean", lambda a, z: (pp.project_mean(a, z),), pp.project_mean_p,
        ("vector", "scalar"), lambda a: np.mean(a, -1),
        lambda a, z: hyperplane((1 / a.shape[-1], a), (-1.0, z)), absolute_sum, moved=1,
    ),
    graph(
        "project_affine", lambda *q: (pp.project_affine(*q),), pp.project_affine_p,
        ("vector", "vector", "scalar", "scalar"), lambda a, c, o: np.sum(c * a, -1) + o, best_affine,
        lambda a, c, z, o: absolute_sum(a, c * a, o, z), moved=1, output=2,
    ),
    graph(
        "project_scale", lambda *q: (pp.project_scale(*q),), pp.project_scale_p,
        ("scalar",) * 4, lambda a, f, o: f * a + o, best_scale,
        lambda a, f, z, o: absolute_sum(a, f * a, o, z), moved=1, output=2,
    ),
    combination_case(1.0, -1.0),
    combination_case(1.0, 1.0, -0.5, 3e3),
    graph(
        "project_max", lambda a, z: (pp.project_max(a, z),), pp.project_max_p,
        ("vector", "scalar"), lambda a: np.max(a, -1), best_max, absolute_sum, moved=1,
    ),
    sum_relu_case(1),
    sum_relu_case(2),
    sum_relu_case(4),
    graph(
        "project_dot", pp.project_dot, pp.project_dot_p, ("vector", "vector", "scalar"),
        lambda a, b: np.sum(a * b, -1), best_dot, lambda a, b, z: absolute_sum(a, b, z, a * b), moved=2,
    ),
    graph(
        "project_product", pp.project_product, pp.project_product_p, ("scalar",) * 3,
        lambda a, b: a * b, best_product, lambda a, b, z: absolute_sum(a, b, z, a * b), moved=2,
    ),
    quantize_case(2, 1.0),
    quantize_case(3, 1.0),
    quantize_case(5, 2.0),
    quantize_case(256, 1e3),
    pieces_case(
        "project_sign", lambda a, z: (pp.project_sign(a, z),), pp.project_sign_p,
        [(-np.inf, 0, -1.0), (0, np.inf, 1.0)],
    ),
    Case(
        "project_margin", lambda x, y: (pp.project_margin(x, y),), pp.project_margin_p,
        ("vector", "labels"), 1, margin_cost, best_margin, lambda x, y: absolute_sum(x, y),
        lambda x, y: (np.where(y > 0, np.abs(x) + y, -np.abs(x)), y),
    ),
    cross_entropy_case(5.0),
    cross_entropy_case(1e-6),
    cross_entropy_case(1e-2),
    cross_entropy_case(1e3),
    cross_entropy_case(1e6),
    squared_error_case(1.0),
    squared_error_case(1e-3),
    squared_error_case(1e3),
    Case(
        "project_equality", lambda x, t: (pp.project_equality(x, t),), pp.project_equality_p,
        ("vector", "vector"), 1,
        lambda query, outputs, unit: np.where(
            np.abs(outputs[0] - query[1]).max(-1) <= 0, norm2(outputs[0] - query[0]), np.inf
        ),
        lambda x, t: norm2(x - t), absolute_sum, lambda x, t: (t, t),
    ),
]  # fmt: skip
