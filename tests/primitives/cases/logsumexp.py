"""Logsumexp: the least cost along every curve of points that could be stationary."""

from collections.abc import Callable

import numpy as np
from scipy.special import lambertw, wrightomega

import pjax_prim.primitives as pp

from .case import absolute_sum, around_minima, graph


def logsumexp(x: np.ndarray) -> np.ndarray:
    largest = x.max(-1)
    return largest + np.log(np.sum(np.exp(x - largest[..., None]), -1))


def lowered(t: np.ndarray, a: np.ndarray, k: np.ndarray) -> np.ndarray:
    """By $\\log v + v = a - s$, where entry k moves down by exp(t)."""
    gap = (a - np.take_along_axis(a, k[:, None], 1))[:, None]
    c = (t + np.exp(t))[..., None] + gap
    return -np.where(c < -30, np.exp(np.minimum(c, 0)), wrightomega(c))


def raised(t: np.ndarray, a: np.ndarray, k: np.ndarray) -> np.ndarray:
    """By $\\log u - u = a - s$, where entry k moves up by exp(t) and no other by more than 1."""
    gap = (a - np.take_along_axis(a, k[:, None], 1))[:, None]
    w = np.exp(np.minimum((t - np.exp(t))[..., None] + gap, -1))
    u = np.where(w < 1e-9, w, -lambertw(-np.maximum(w, 1e-9)).real)
    u = np.where(np.isnan(u), 1, u)  # w is 1/e
    u[np.arange(len(a)), :, k] = np.exp(t)
    return u


def along(
    curve: Callable[..., np.ndarray], a: np.ndarray, z: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """The least cost where one of the two largest entries moves by the exponential of low to high."""
    found = np.full(len(a), np.inf)
    for k in np.argsort(-a, 1, kind="stable")[:, :2].T:

        def cost(t: np.ndarray, k: np.ndarray = k) -> np.ndarray:
            shape, u = t.shape, curve(t.reshape(len(a), -1), a, k)
            costs = np.sum(u * u, -1) + (logsumexp(a[:, None] + u) - z[:, None]) ** 2
            return costs.reshape(shape)

        grid = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, 100)
        costs = cost(grid)
        left, right = around_minima(grid, costs, 3)
        for _ in range(6):  # nearer and nearer
            grid = left[..., None] + (right - left)[..., None] * np.linspace(0, 1, 13)
            costs = cost(grid)
            found = np.minimum(found, costs.min((1, 2)))
            place = np.argmin(costs, -1)[..., None]
            left = np.take_along_axis(grid, np.maximum(place - 1, 0), -1)[..., 0]
            right = np.take_along_axis(grid, np.minimum(place + 1, 12), -1)[..., 0]
    return found


def best(a: np.ndarray, z: np.ndarray) -> np.ndarray:
    rest = z - logsumexp(a)
    found, size = rest**2, np.maximum(np.abs(rest), 1e-300)
    for rows, curve, beyond in (
        (rest < 0, lowered, False), (rest > 0, raised, False), (rest > 1, raised, True)
    ):  # fmt: skip
        if rows.any():
            high = np.log(size[rows])
            low = np.zeros_like(high) if beyond else high - np.log(4 * a.shape[-1])
            found[rows] = np.minimum(found[rows], along(curve, a[rows], z[rows], low, high))
    return found


CASES = [
    graph(
        "project_logsumexp", lambda a, z: (pp.project_logsumexp(a, z),), pp.project_logsumexp_p,
        ("vector", "scalar"), logsumexp, best, absolute_sum, moved=1, count=300, long=24,
    )
]  # fmt: skip
