"""Infinite numbers in a function's own text: masks of attention and of classes, by every solver."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jaxtyping import Array

import pjax_prim as pjp

X, W = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(4, 5), (5, 6)]))
CAUSAL = jnp.tril(jnp.ones((4, 6), bool))
LABELS = jnp.array([0, 2, 1, 3])
SOLVERS: tuple[Callable[[], Any], ...] = (
    pjp.AlternatingProjections,
    pjp.AlternatingReflections,
    pjp.DouglasRachford,
    partial(pjp.DifferenceMap, beta=0.9),
    pjp.CyclicProjections,
    pjp.CyclicDouglasRachford,
    pjp.ExtrapolatedProjections,
    pjp.JointProjections,
)


def chosen(w: Array, x: Array, low: float) -> Array:
    return pjp.cross_entropy(jnp.where(jnp.arange(6) < 4, x @ w, low), LABELS)


def added(w: Array, x: Array, low: float) -> Array:
    return pjp.cross_entropy(x @ w + jnp.where(jnp.arange(6) < 4, 0.0, low), LABELS)


def alone(w: Array, x: Array, low: float) -> Array:
    return pjp.cross_entropy((x @ w)[:, :4], LABELS)


def attended(w: Array, x: Array, low: float) -> Array:
    weights = jax.nn.softmax(jnp.where(CAUSAL, x @ w, low), -1)
    return pjp.squared_error(weights @ jnp.arange(6.0), jnp.ones(4))


def summed(w: Array, x: Array, low: float) -> Array:
    return pjp.squared_error(jax.nn.logsumexp(x @ w + jnp.where(CAUSAL, 0.0, low), -1), jnp.ones(4))


def nearest(w: Array, x: Array, low: float) -> Array:
    distances = jnp.min(jnp.where(CAUSAL, (x @ w) ** 2, -low), -1)
    return pjp.squared_error(distances, jnp.ones(4))


def looped(w: Array, x: Array, low: float) -> Array:
    def step(h: Array, row: Array) -> tuple[Array, Array]:
        weights = jax.nn.softmax(jnp.where(jnp.arange(5) < 3, h + row, low))
        return weights @ w[:, :5], weights @ w

    return pjp.cross_entropy(lax.scan(step, jnp.zeros(5), x)[1], LABELS)


def name_of(make: Any) -> str:
    return getattr(make, "func", make).__name__


ROWS = [
    pytest.param(
        make,
        fn,
        marks=() if fn is added or make is pjp.AlternatingProjections else pytest.mark.slow,
        id=f"{fn.__name__}-{name_of(make)}",
    )
    for fn in (chosen, added, attended, summed, nearest, looped)
    for make in SOLVERS
]
"""Each function by one solver, each solver on one function; all of them if asked for."""


@pytest.mark.parametrize(("make", "fn"), ROWS)
def test_an_absent_element_is_left_alone(make: Callable[[], Any], fn: Any) -> None:
    """As one beside which numbers of ordinary size are nothing; of classes, as if there were none."""
    solution = pjp.solve(partial(fn, low=-jnp.inf), W, X, solver=make(), max_steps=3)
    assert solution.result == pjp.RESULTS.max_steps_reached
    assert np.isfinite(solution.stats["gap"])
    likes = [partial(fn, low=-1e30)] + [partial(alone, low=0.0)] * (fn is chosen)
    for like in likes:
        other = pjp.solve(like, W, X, solver=make(), max_steps=3)
        np.testing.assert_allclose(solution.params, other.params, rtol=1e-6, atol=1e-9)
    assert np.any(solution.params != W)


@pytest.mark.parametrize("make", [pjp.AlternatingProjections, pjp.DouglasRachford])
def test_a_constant_of_another_size_does_not_move_what_it_is_added_to(make: Callable[[], Any]) -> None:
    """In single precision a sum with -1e9 forgets the other term, which the solver must not ask for."""
    w, x = W.astype(jnp.float32), X.astype(jnp.float32)
    found = pjp.solve(partial(added, low=-1e9), w, x, solver=make(), max_steps=5).params
    np.testing.assert_allclose(found[:, 4:], w[:, 4:], atol=1e-6)
    assert np.all(found[:, :4] != w[:, :4])


@pytest.mark.parametrize(
    "fn",
    [
        lambda w, x: pjp.cross_entropy(jnp.where(jnp.arange(6) < 3, x @ w, -jnp.inf), LABELS),
        lambda w, x: jnp.sum(jax.nn.softmax(jnp.where(jnp.arange(4)[:, None] < 2, x @ w, -jnp.inf)) ** 2),
    ],
    ids=["a label that is absent", "rows of nothing else"],
)
def test_what_is_undefined_is_said(fn: Any) -> None:
    """The loss is infinite, or NaN."""
    solution = pjp.solve(fn, W, X, solver=pjp.AlternatingProjections(), max_steps=3)
    assert solution.result == pjp.RESULTS.nonfinite
    np.testing.assert_array_equal(solution.params, W)


def test_softmax_has_no_infinite_numbers_of_its_own() -> None:
    def plain(w: Array) -> Array:
        return pjp.squared_error(jax.nn.softmax(X @ w, -1) @ jnp.arange(6.0), jnp.ones(4))

    assert pjp.constraint_graph(plain)(W).infinite_literals == ()
    masked = pjp.constraint_graph(lambda w: attended(w, X, -jnp.inf))(W)
    assert [float(x.literal) for x in masked.infinite_literals] == [-jnp.inf]
