"""Layer norms whose cost has two minima, near and far from one another, against the minimiser of `cases`."""

import numpy as np
import pytest

from .cases import Rows
from .cases.normalize import CASES, norm_case
from .test_exact import excess_over_bound

TWO_MINIMA = (
    [0.67559636, -1.37677169, 1.43872714, -0.40581402, -0.95658422],
    [0.74668175, 0.13379809, -0.16932175, -0.26783335, 0.42640200],
)
"""On a grid the dearer minimum has the cheaper point."""


def opposite(rng: np.random.Generator, count: int, n: int, eps: float, center: bool) -> Rows:
    """Inputs of all scales, and outputs near, far, opposite, of size 1, across and zero."""
    a = rng.standard_normal((count, n)) * 10 ** rng.uniform(-3, 3, (count, 1))
    if center:  # else rounding a mean of 3 moves a short t, of 1e-7, by 1e-9 of itself
        a -= a.mean(-1, keepdims=True)
    on = a / np.sqrt(np.mean(a**2, -1, keepdims=True) + eps)
    noise = rng.standard_normal((count, n))
    size = 10 ** rng.uniform(-4, 1, (count, 1))  # nearer, rounding in the minimiser is 1e-9 of the least cost
    sign = rng.choice([-1.0, 1.0], (count, 1))
    straight = a / np.sqrt(eps)  # the output of short inputs, opposite to which the two terms cancel
    near_straight = -straight * (1 + size * sign) + size * noise * np.abs(straight).mean(-1, keepdims=True)
    outputs = (
        on + size * noise, size * noise, sign * 10 * size * on + 0.1 * noise, -size * on,
        -on * rng.uniform(0, 0.5, (count, 1)) + 0.3 * noise, near_straight, np.zeros_like(a),
    )  # fmt: skip
    return a, np.choose(rng.integers(0, len(outputs), (count, 1)), outputs)


@pytest.mark.optimised
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_lower_of_two_minima(dtype: str) -> None:
    (case,) = (case for case in CASES if not case.static["center"])
    rows = opposite(np.random.default_rng(0), 500, 5, **case.static)
    for row, query in zip(rows, TWO_MINIMA, strict=True):
        row[0] = query
    assert excess_over_bound(case, rows, dtype).max() <= 1


@pytest.mark.slow
@pytest.mark.optimised
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("eps", [1e-12, 1e-8, 1e-5, 1e-3, 0.03, 0.3, 1.0])
def test_the_lower_of_two_minima_of_many(eps: float, center: bool, dtype: str) -> None:
    case, rng = norm_case(eps, center), np.random.default_rng(1)
    for n in (2, 3, 5, 16):
        for _ in range(4):
            assert excess_over_bound(case, opposite(rng, 500, n, eps, center), dtype).max() <= 1
