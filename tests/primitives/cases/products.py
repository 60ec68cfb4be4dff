"""Products: convex duality."""

from functools import partial

import numpy as np

import pjax_prim.primitives as pp

from .case import Case, Rows, absolute_sum, graph, norm2, search


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


def least_to(a: np.ndarray, b: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The least squared distance of two vectors from some whose dot product is at least a target: the dual
    of `best_dot` without the output's own cost."""
    long, short = norm2(a + b) / 2, norm2(a - b) / 2
    residual = (np.sum(a.astype(np.longdouble) * b, -1) - target).astype(np.float64)

    def minus_dual(logit: np.ndarray) -> np.ndarray:
        plus, minus = 2 / (1 + np.exp(-logit)), 2 / (1 + np.exp(logit))
        multiplier = np.tanh(logit / 2)
        return multiplier**2 * (long / plus + short / minus) - 2 * multiplier * residual

    return np.maximum(-search(minus_dual, np.full(len(a), -80.0), np.zeros(len(a))), 0)


def threshold_case(margin: float) -> Case:
    def best(w: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        up, down = (least_to(sign * w, x, np.full(len(w), margin)) for sign in (1, -1))
        return np.minimum(up + (1 - y) ** 2, down + (-1 - y) ** 2)

    def cost(query: Rows, outputs: Rows, unit: np.ndarray) -> np.ndarray:
        w, x, y = outputs
        holds = (np.abs(y) == 1) & (y * np.sum(w * x, -1) >= margin - unit)
        return np.where(holds, norm2(*(new - old for new, old in zip(outputs, query, strict=True))), np.inf)

    def feasible(w: np.ndarray, x: np.ndarray, y: np.ndarray) -> Rows:
        x = np.where(np.all(x == 0, -1, keepdims=True), 1.0, x)
        w = np.where(np.all(w == 0, -1, keepdims=True), x, w)
        w = np.where(np.sum(w * x, -1, keepdims=True) == 0, x, w)
        product = np.sum(w * x, -1)
        # A little more than the margin, which rounding would miss.
        longer = np.maximum(1.001 * margin / np.abs(product), 1)
        return w * longer[:, None], x, np.sign(product)

    def size(w: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return absolute_sum(w, x, y, w * x) + margin

    return Case(
        "project_threshold_dot", partial(pp.project_threshold_dot, margin=margin), pp.project_threshold_dot_p,
        ("vector", "vector", "scalar"), 3, cost, best, size, feasible,
        kinked=True, static={"margin": margin},
    )  # fmt: skip


CASES = [
    graph(
        "project_dot", pp.project_dot, pp.project_dot_p, ("vector", "vector", "scalar"),
        lambda a, b: np.sum(a * b, -1), best_dot, lambda a, b, z: absolute_sum(a, b, z, a * b), moved=2,
    ),
    graph(
        "project_product", pp.project_product, pp.project_product_p, ("scalar",) * 3,
        lambda a, b: a * b, best_product, lambda a, b, z: absolute_sum(a, b, z, a * b), moved=2,
    ),
    threshold_case(0.1),
    threshold_case(2.0),
]  # fmt: skip
