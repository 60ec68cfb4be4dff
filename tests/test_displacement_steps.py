"""Displacements that are small beside what they are added to, and those of functions with steps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jaxtyping import Array

import pjax_prim as pjp

KEY = jax.random.key(0)


def pooled(a: Array, b: Array, start: float, operation: Any) -> Array:
    """Of pairs of elements."""
    pairs = jnp.stack([a, b], -1).reshape(6, 12)
    return lax.reduce_window(pairs, start, operation, (1, 2), (1, 2), "VALID")


OPERATIONS: dict[str, Callable[[Array, Array], Array]] = {
    "scale": lambda a, b: 0.3 * a,
    "divide": lambda a, b: a / 3,
    "product": lambda a, b: a * b,
    "quotient": lambda a, b: a / b,
    "maximum": jnp.maximum,
    "minimum": lambda a, b: jnp.minimum(a, 100),
    "select": lambda a, b: jnp.where(a > 2 * b, a, b),
    "cumsum": lambda a, b: jnp.cumsum(a, 0),
    "scatter": lambda a, b: jnp.zeros_like(a).at[jnp.array([0, 0, 1, 2, 3, 3])].add(a),
    "average": lambda a, b: 0.5 * pooled(a, b, 0.0, lax.add),
    "max_pool": lambda a, b: pooled(a, b, -jnp.inf, lax.max),
    "reduce_max": lambda a, b: jnp.max(jnp.stack([a, b], -1), -1),
}


@pytest.mark.filterwarnings("ignore::pjax_prim.errors.UnusedParameterWarning")
@pytest.mark.parametrize("name", OPERATIONS)
def test_small_changes_keep_their_digits(name: str) -> None:
    """Losses all but satisfied, in float32 as in float64: added to an output, such changes would vanish."""
    a = 20 * jnp.eye(6) + jax.random.uniform(KEY, (6, 6))
    b = 1 + jax.random.uniform(KEY, (6, 6))

    def loss(parameters: tuple[Array, Array]) -> Array:
        return pjp.cross_entropy(OPERATIONS[name](*parameters), jnp.arange(6))

    def direction(dtype: str) -> np.ndarray:
        moved = pjp.displacement(loss)((a.astype(dtype), b.astype(dtype)))
        return np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in moved])

    wide, narrow = direction("float64"), direction("float32")
    assert np.linalg.norm(wide) > 0
    assert np.linalg.norm(narrow - wide) < 1e-2 * np.linalg.norm(wide)


X = jnp.array([-3.2, -1.1, -0.4, 0.3, 0.8, 1.4, 2.6])
STEPS: dict[str, tuple[Callable[[Array], Array], Array]] = {
    # With the distance to the nearest edge over half a step.
    "sign": (jnp.sign, X),
    "round": (jnp.round, 2 * jnp.array([0.3, 0.4, 0.1, 0.2, 0.3, 0.1, 0.1])),
    "floor": (jnp.floor, 2 * jnp.array([0.2, 0.1, 0.4, 0.3, 0.2, 0.4, 0.4])),
    "quantize": (lambda x: pjp.quantize(x, 3, 2.0), jnp.array([2.2, 0.1, 0.6, 0.7, 0.2, 0.4, 1.6])),
    "two_levels": (lambda x: pjp.quantize(x, 2, 0.5), X / 0.5),
}


@pytest.mark.parametrize("name", STEPS)
def test_changes_fade_with_the_distance_to_a_step(name: str) -> None:
    function, distance = STEPS[name]
    target = jax.random.normal(KEY, X.shape)
    moved = -pjp.displacement(lambda x: pjp.squared_error(function(x), target))(X)
    change = target - function(X)
    expected = change / (1 + distance**2)
    np.testing.assert_allclose(moved / moved[0], expected / expected[0], rtol=1e-9)
    assert moved[0] * expected[0] > 0


def test_threshold_neurons_against_loops() -> None:
    keys = jax.random.split(KEY, 4)
    w, x = jax.random.normal(keys[0], (4, 3)), jax.random.normal(keys[1], (5, 3))
    target, sigma = jax.random.normal(keys[2], (5, 4)), 2.0

    def loss(parameters: tuple[Array, Array]) -> Array:
        w, x = parameters
        return pjp.squared_error(jax.vmap(lambda row: pjp.threshold_dot(w, row, sigma))(x), target)

    move_w, move_x = np.zeros(w.shape), np.zeros(x.shape)
    for i, j in np.ndindex(5, 4):
        product = float(w[j] @ x[i])
        margin = float(jnp.linalg.norm(w[j]) * jnp.linalg.norm(x[i]) / np.sqrt(3 * sigma))
        change = float(target[i, j]) - np.sign(product)
        multiplier = change / (margin * (1 + (product / margin) ** 2))
        move_w[j] += multiplier * np.asarray(x[i])
        move_x[i] += multiplier * np.asarray(w[j])
    found_w, found_x = pjp.displacement(loss)((w, x))
    factor = -float(found_w[0, 0]) / move_w[0, 0]
    assert factor > 0
    np.testing.assert_allclose(-found_w, factor * move_w, rtol=1e-9)
    np.testing.assert_allclose(-found_x, factor * move_x, rtol=1e-9)


def test_threshold_neurons_of_zero_weights_are_not_moved() -> None:
    def loss(w: Array) -> Array:
        return pjp.squared_error(pjp.threshold_dot(w, jnp.ones(3)), jnp.zeros(2))

    np.testing.assert_array_equal(pjp.displacement(loss)(jnp.zeros((2, 3))), jnp.zeros((2, 3)))
