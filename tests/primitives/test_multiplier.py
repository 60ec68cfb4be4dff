"""The scalar equation of the dot projection: full precision over all scales."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_prim as pjp
from pjax_prim.primitives.dot import degenerate_size, is_near, multiplier, near_multiplier, scaled_residual


def left_side(u: np.ndarray, s: np.ndarray, d: np.ndarray) -> np.ndarray:
    return u / (1 + u) + s * u * (u + 2) + d * u * (2 + 3 * u) / (1 + 2 * u) ** 2


def bisect(s: np.ndarray, d: np.ndarray, r: np.ndarray) -> np.ndarray:
    """The root for r > 0, in the logarithm of u and in long double."""
    s, d, r = (np.asarray(x, np.longdouble) for x in (s, d, r))
    low, high = np.full(r.shape, -200.0, np.longdouble), np.full(r.shape, 200.0, np.longdouble)
    for _ in range(90):
        middle = (low + high) / 2
        above = left_side(np.exp(middle), s, d) > r
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.exp((low + high) / 2)


def sample(count: int, decades: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """S, D and r over many decades, zeros among S and D, and r near where S alone decides."""
    random = np.random.default_rng(0)
    s, d, r = 10 ** random.uniform(-decades, decades, (3, count))
    s[: count // 20] = 0
    d[count // 20 : count // 10] = 0
    critical = slice(count // 10, count // 5)
    offset = random.choice([-1, 1], count) * 10 ** random.uniform(-2, 0, count)
    r[critical] = np.abs((1 + 0.75 * d) * (1 + offset))[critical]
    return s, d, r


def rounding_errors(s: np.ndarray, d: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Relative errors of `multiplier` in units of rounding, and which queries are not degenerate.

    Where r is all but met by the terms that saturate, rounding of r decides on u: the unit allows for it.
    """
    u, extra = (np.asarray(x) for x in multiplier(s, d, r))
    assert np.isfinite(u).all() and (u >= 0).all()
    exact = bisect(s, d, r)
    slope = exact * (
        1 / (1 + exact) ** 2 + 2 * s.astype(np.longdouble) * (1 + exact)
        + 2 * d.astype(np.longdouble) * (1 + exact) / (1 + 2 * exact) ** 3
    )  # fmt: skip
    unit = np.finfo(r.dtype).eps * np.maximum(r / slope, 1)
    regular = (extra == 0) & (exact < degenerate_size(r.dtype))
    return np.abs(u / exact - 1) / unit, regular


@pytest.mark.parametrize(
    ("dtype", "decades"), [("float64", 25), ("float64", 3), ("float32", 8), ("float32", 2)]
)
def test_full_precision(dtype: str, decades: float) -> None:
    errors, regular = rounding_errors(*(x.astype(dtype) for x in sample(20_000, decades)))
    assert regular.mean() > 0.5
    assert errors[regular].max() < 8


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_signs_exchange_the_vectors(dtype: str) -> None:
    s, d, r = (jnp.asarray(x, dtype) for x in sample(1000, 3))
    np.testing.assert_array_equal(multiplier(s, d, -r)[0], -multiplier(d, s, r)[0])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_near_is_the_same(dtype: str) -> None:
    s, d, r = (x.astype(dtype) for x in sample(20_000, 4))
    r = r * np.random.default_rng(1).choice([-1, 1], r.shape)
    scaled = scaled_residual(*(jnp.asarray(x) for x in (s, d, r)))
    near = np.asarray(jax.vmap(is_near)(scaled))
    assert 0.1 < near.mean() < 0.9 and not bool(is_near(scaled)) and bool(is_near(scaled[near]))
    t = np.asarray(near_multiplier(s, d, r, scaled), np.float64)[near]
    assert np.abs(t).max() < 0.026
    wide = (jnp.asarray(x[near], jnp.float64) for x in (s, d, r))
    u = np.asarray(multiplier(*wide)[0])
    np.testing.assert_allclose(t / (1 - np.abs(t)), u, rtol=8 * np.finfo(dtype).eps)


def test_overflow_and_degenerate_queries() -> None:
    huge = jnp.asarray([3e38, 1.0, 1.0, jnp.inf, jnp.nan], jnp.float32)
    u, extra = jax.jit(multiplier)(huge, huge[::-1], jnp.ones(5, jnp.float32))
    assert bool(jnp.isfinite(u).all()) and bool((extra == 0).all())
    # a = b = 0 with a far target: only a sphere of answers, at a squared radius of 4 (r - 1).
    u, extra = multiplier(jnp.zeros(()), jnp.zeros(()), jnp.asarray(3.0))
    assert float(extra) == 2.0


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_vectors_of_any_length_grow(dtype: str, sign: int) -> None:
    """Equal (or opposite) vectors whose product is to be 100: the nearest of length sqrt(99)."""
    exponents = np.linspace(-8, -18 if dtype == "float32" else -150, 60)
    a = jnp.asarray(10.0 ** exponents[:, None] * [3, 4], dtype)
    found, other = jax.vmap(pjp.project_dot)(a, sign * a, jnp.full(60, sign * 100.0, dtype))
    np.testing.assert_allclose(jnp.linalg.norm(found, axis=1), 99**0.5, rtol=1e-5)
    np.testing.assert_allclose(sign * other, found, rtol=1e-5, atol=1e-5)
