"""Losses: clipping, and bisection on the log-partition."""

from collections.abc import Callable

import numpy as np
from scipy.special import wrightomega

import pjax_prim.primitives as pp

from .case import Case, Rows, absolute_sum, norm2


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


CASES = [
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
