"""Sets of several pieces: exhaustive search over them."""

from collections.abc import Callable
from itertools import combinations, product
from typing import Any

import numpy as np

import pjax_prim.primitives as pp

from .case import Case, Rows, absolute_sum, graph, norm2, search


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


def best_select(*query: np.ndarray) -> np.ndarray:
    x, y, a, b, z = query
    first = (a - z) ** 2 / 2 + np.maximum(y - x, 0) ** 2 / 2
    return np.minimum(first, (b - z) ** 2 / 2 + np.maximum(x - y, 0) ** 2 / 2)


def select_cost(query: Rows, outputs: Rows, unit: np.ndarray) -> np.ndarray:
    x, y, a, b = outputs
    first = np.where(x >= y - unit, (a - query[4]) ** 2, np.inf)
    second = np.where(x <= y + unit, (b - query[4]) ** 2, np.inf)
    moves = norm2(*(new - old for new, old in zip(outputs, query, strict=False)))
    return moves + np.minimum(first, second)


def round_case(function: str, f: Callable[[np.ndarray], np.ndarray]) -> Case:
    """The integers near both coordinates and half-way between them."""

    def best(a: np.ndarray, z: np.ndarray) -> np.ndarray:
        centres = np.stack([a, z, (a + z) / 2], -1)
        levels = (np.round(centres)[..., None] + np.arange(-3, 4)).reshape(len(a), -1)
        offset = {"round": -0.5, "floor": 0.0, "ceil": -1.0}[function]
        inside = np.clip(a[:, None], levels + offset, levels + offset + 1)
        return ((inside - a[:, None]) ** 2 + (levels - z[:, None]) ** 2).min(-1)

    def cost(query: Rows, outputs: Rows, unit: np.ndarray) -> np.ndarray:
        (a, z), (x,) = query, outputs
        near = np.minimum(unit, 0.1)  # to reach no more than one integer
        return (x - a) ** 2 + np.minimum.reduce([(f(x + s * near) - z) ** 2 for s in (-1, 0, 1)])

    return Case(
        "project_round",
        lambda a, z: (pp.project_round(a, z, function),),
        pp.project_round_p,
        ("scalar", "scalar"),
        1,
        cost,
        best,
        lambda a, z: np.abs(a) + np.abs(z) + 1,
        lambda a, z: (a, f(a)),
        kinked=True,
        static={"function": function},
        count=500,
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


def sets_of(k: int, n: int) -> list[np.ndarray]:
    chosen = combinations(range(n), min(k, n))
    return [np.isin(np.arange(n), subset) for subset in chosen]


def best_top_k(k: int) -> Callable[..., np.ndarray]:
    """Every set of k entries, and for each every threshold: the cost is convex in it."""

    def best(x: np.ndarray, z: np.ndarray) -> np.ndarray:
        costs = []
        for inside in sets_of(k, x.shape[-1]):

            def at(t: np.ndarray, inside: np.ndarray = inside) -> np.ndarray:
                rise, fall = np.maximum(t[:, None] - x, 0), np.maximum(x - t[:, None], 0)
                return np.sum(np.where(inside, rise, fall) ** 2, -1)

            costs.append(search(at, x.min(-1), x.max(-1)) + norm2(inside - z))
        return np.minimum.reduce(costs)

    return best


def top_k_cost(k: int) -> Callable[..., np.ndarray]:
    """The cheapest of the sets that the result admits."""

    def cost(query: Rows, outputs: Rows, unit: np.ndarray) -> np.ndarray:
        (x, z), (moved,) = query, outputs
        costs = []
        for inside in sets_of(k, x.shape[-1]):
            least = np.min(np.where(inside, moved, np.inf), -1)
            admits = least >= np.max(np.where(inside, -np.inf, moved), -1) - unit
            costs.append(np.where(admits, norm2(inside - z), np.inf))
        return norm2(moved - x) + np.minimum.reduce(costs)

    return cost


def top_k_case(name: str, definition: pp.Definition, long: int, **static: Any) -> Case:
    k = static.get("k", 1)

    def project(x: Any, z: Any) -> tuple[Any]:
        return (pp.project_top_k_mask(x, z, min(k, len(x))) if static else pp.project_one_hot_argmax(x, z),)

    def feasible(x: np.ndarray, z: np.ndarray) -> Rows:
        order = np.argsort(np.argsort(-x, -1, kind="stable"), -1)
        return x, (order < k).astype(x.dtype)

    return Case(
        name, project, definition, ("vector", "vector"), 1, top_k_cost(k), best_top_k(k),
        lambda x, z: absolute_sum(x, z) + k, feasible, kinked=True, static=static, count=500,
        long=long,
    )  # fmt: skip


CASES = [
    top_k_case("project_one_hot_argmax", pp.project_one_hot_argmax_p, 200),
    top_k_case("project_top_k_mask", pp.project_top_k_mask_p, 20, k=2),
    graph(
        "project_max", lambda a, z: (pp.project_max(a, z),), pp.project_max_p,
        ("vector", "scalar"), lambda a: np.max(a, -1), best_max, absolute_sum, moved=1,
    ),
    sum_relu_case(1),
    sum_relu_case(2),
    sum_relu_case(4),
    quantize_case(2, 1.0),
    quantize_case(3, 1.0),
    quantize_case(5, 2.0),
    quantize_case(256, 1e3),
    pieces_case(
        "project_sign", lambda a, z: (pp.project_sign(a, z),), pp.project_sign_p,
        [(-np.inf, 0, -1.0), (0, np.inf, 1.0)],
    ),
    Case(
        "project_select", pp.project_select, pp.project_select_p, ("scalar",) * 5, 4,
        select_cost, best_select, absolute_sum,
        lambda x, y, a, b, z: (x, y, a, b, np.where(x > y, a, b)), kinked=True,
    ),
    round_case("round", np.round),
    round_case("floor", np.floor),
    round_case("ceil", np.ceil),
]  # fmt: skip
