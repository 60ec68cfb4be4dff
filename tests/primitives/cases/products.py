"""Products: convex duality."""

import numpy as np

import pjax_prim.primitives as pp

from .case import absolute_sum, graph, norm2, search


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


CASES = [
    graph(
        "project_dot", pp.project_dot, pp.project_dot_p, ("vector", "vector", "scalar"),
        lambda a, b: np.sum(a * b, -1), best_dot, lambda a, b, z: absolute_sum(a, b, z, a * b), moved=2,
    ),
    graph(
        "project_product", pp.project_product, pp.project_product_p, ("scalar",) * 3,
        lambda a, b: a * b, best_product, lambda a, b, z: absolute_sum(a, b, z, a * b), moved=2,
    ),
]  # fmt: skip
