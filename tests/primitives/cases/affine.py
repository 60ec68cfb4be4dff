"""Hyperplanes: the squared distance is the squared residual over the squared norm of the normal."""

from typing import Any

import numpy as np
from scipy.linalg import solve_banded

import pjax_prim.primitives as pp

from .case import Case, absolute_sum, graph, norm2


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


def best_cumsum(a: np.ndarray, z: np.ndarray) -> np.ndarray:
    """By a banded solve for how far the outputs move."""
    residual = z - np.cumsum(a, -1)
    n = a.shape[-1]
    bands = np.stack([np.full(n, -1.0), np.full(n, 3.0), np.full(n, -1.0)])
    bands[1, -1] = 2
    d = solve_banded((1, 1), bands, residual.T).T
    return norm2(np.diff(d, prepend=0), d - residual)


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
    Case(
        "project_cumsum", lambda a, z: (pp.project_cumsum(a, z),), pp.project_cumsum_p,
        ("vector", "vector"), 1,
        lambda query, outputs, unit: norm2(outputs[0] - query[0], np.cumsum(outputs[0], -1) - query[1]),
        best_cumsum, lambda a, z: absolute_sum(np.cumsum(np.abs(a), -1), z),
        lambda a, z: (a, np.cumsum(a, -1)),
    ),
]  # fmt: skip
