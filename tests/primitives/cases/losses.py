"""Losses: clipping, and bisection on the log-partition."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy.special import wrightomega

import pjax_prim.primitives as pp

from .case import Case, Rows, absolute_sum, norm2, search


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


def best_cross_entropy(logits: np.ndarray, labels: np.ndarray, step: np.ndarray) -> np.ndarray:
    """The stationary point by bisection on the log-partition: sum_i omega(b + c_i) = lambda Y."""
    n = logits.shape[-1]
    lam = np.maximum(step, 1e-300)[:, None]
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
    at_start = 2 * step * cross_entropy(logits, labels)
    return np.minimum(norm2(x - logits) + 2 * step * cross_entropy(x, labels), at_start)


def prox_cost(loss: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Of (x, *targets, step) the squared distance and twice the step times the loss."""

    def cost(query: Rows, outputs: Rows, unit: np.ndarray) -> np.ndarray:
        return norm2(outputs[0] - query[0]) + 2 * query[-1] * loss(outputs[0], *query[1:-1])

    return cost


def huber(x: np.ndarray, t: np.ndarray, d: np.ndarray) -> np.ndarray:
    gap = np.abs(x - t)
    return np.where(gap <= d, gap**2 / 2, d * (gap - d / 2))


def of(definition: pp.Definition) -> Callable[..., tuple[Any, ...]]:
    """A primitive as a function of arrays and numbers, in the dtype of the first."""

    def project(x: Any, *others: Any) -> tuple[Any, ...]:
        x = jnp.asarray(x, jnp.result_type(x, float) if isinstance(x, int) else x.dtype)
        return tuple(definition.bind(x, *(jnp.asarray(y, x.dtype) for y in others)))

    return project


def elementwise(
    definition: pp.Definition,
    operands: tuple[str, ...],
    loss: Callable[..., np.ndarray],
    size: Callable[..., np.ndarray],
    feasible: Callable[..., Rows],
) -> Case:
    """A smooth convex loss of one number, with its least cost by golden section."""

    def best(x: np.ndarray, *rest: np.ndarray) -> np.ndarray:
        *targets, step = rest
        # No proximal point is further than a step times the largest slope, or than the target.
        slope = targets[1] if len(targets) > 1 else 1.0
        reach = step * slope
        if operands[1] == "scalar":
            reach = np.minimum(reach, np.abs(targets[0] - x))
        return search(lambda y: (y - x) ** 2 + 2 * step * loss(y, *targets), x - reach, x + reach)

    name = definition.name.removeprefix("pjax_")
    return Case(name, of(definition), definition, operands, 1, prox_cost(loss), best, size, feasible)


CASES = [
    Case(
        "project_margin", lambda x, y: (pp.project_margin(x, y),), pp.project_margin_p,
        ("vector", "labels"), 1, margin_cost, best_margin, lambda x, y: absolute_sum(x, y),
        lambda x, y: (np.where(y > 0, np.abs(x) + y, -np.abs(x)), y),
    ),
    Case(
        "prox_cross_entropy", lambda *query: (pp.prox_cross_entropy(*query),), pp.prox_cross_entropy_p,
        ("vector", "weights", "step"), 1, prox_cost(cross_entropy), best_cross_entropy,
        lambda x, y, s: np.sqrt(norm2(x) * (1 + s / 2)), lambda x, y, s: (x, np.zeros_like(y), s),
    ),
    Case(
        "prox_squared_error", lambda *query: (pp.prox_squared_error(*query),), pp.prox_squared_error_p,
        ("scalar", "scalar", "step"), 1, prox_cost(lambda x, t: (x - t) ** 2 / 2),
        lambda x, t, s: (x - t) ** 2 * s / (1 + s),
        lambda x, t, s: (np.abs(x) + np.abs(t)) * np.maximum(1, s) ** 0.5, lambda x, t, s: (x, x, s),
    ),
    Case(
        "prox_minimise", lambda y, step: (pp.prox_minimise_p.bind(y, step)[0],), pp.prox_minimise_p,
        ("scalar", "step"), 1, lambda query, outputs, unit: (outputs[0] - query[0] + query[1]) ** 2,
        lambda y, s: np.zeros_like(y), absolute_sum, lambda y, s: (y, np.zeros_like(s)),
    ),
    Case(
        "prox_absolute_error", of(pp.prox_absolute_error_p), pp.prox_absolute_error_p,
        ("scalar", "scalar", "step"), 1, prox_cost(lambda x, t: np.abs(x - t)),
        lambda x, t, s: np.minimum.reduce([d**2 + 2 * s * np.abs(d - (t - x)) for d in (-s, s, t - x)]),
        lambda x, t, s: np.abs(x) + np.abs(t), lambda x, t, s: (x, x, s), kinked=True,
    ),
    elementwise(
        pp.prox_huber_p, ("scalar", "scalar", "step", "step"), huber,
        lambda x, t, d, s: (np.abs(x) + np.abs(t)) * np.maximum(1, s) ** 0.5, lambda x, t, d, s: (x, x, d, s),
    ),
    elementwise(
        pp.prox_binary_cross_entropy_p, ("scalar", "share", "step"),
        lambda x, y: y * np.logaddexp(0, -x) + (1 - y) * np.logaddexp(0, x),
        lambda x, y, s: np.abs(x) * np.sqrt(1 + s / 2), lambda x, y, s: (x, y, np.zeros_like(s)),
    ),
    Case(
        "project_at_most", of(pp.project_at_most_p), pp.project_at_most_p, ("scalar", "scalar"), 1,
        lambda query, outputs, unit: np.where(
            outputs[0] <= query[1], (outputs[0] - query[0]) ** 2, np.inf
        ),
        lambda y, b: np.maximum(y - b, 0) ** 2, absolute_sum, lambda y, b: (np.minimum(y, b), b),
    ),
    Case(
        "project_equality", lambda x, t: (pp.project_equality(x, t),), pp.project_equality_p,
        ("vector", "vector"), 1,
        lambda query, outputs, unit: np.where(
            np.abs(outputs[0] - query[1]).max(-1) <= 0, norm2(outputs[0] - query[0]), np.inf
        ),
        lambda x, t: norm2(x - t), absolute_sum, lambda x, t: (t, t),
    ),
]  # fmt: skip
