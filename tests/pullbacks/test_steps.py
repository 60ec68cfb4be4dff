"""Pullbacks of hard functions, and the ones that users register."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import SingleDeviceSharding
from jaxtyping import Array

import pjax_prim as pjp

X = jnp.array([-3.2, -1.1, -0.4, 0.3, 0.8, 1.4, 2.6])
C = jnp.array([1.0, -2.0, 0.5, 3.0, -1.0, 0.25, 2.0])


def direction(function: Callable[[Array], Array], x: Array = X) -> np.ndarray:
    """Of a linear loss, so that it is what the pullback makes of `C`."""
    return np.asarray(pjp.displacement(lambda x: jnp.sum(C * function(x)))(x))


STEPS: dict[str, tuple[Callable[[Array], Array], Array, float]] = {
    # With half a step's distances from the nearest edge, and the size of a step.
    "gt": (lambda x: (x > 0.5).astype(x.dtype), 2 * (X - 0.5), 1),
    "ge": (lambda x: (x >= 0.5).astype(x.dtype), 2 * (X - 0.5), 1),
    "lt": (lambda x: (x < 0.5).astype(x.dtype), 2 * (X - 0.5), -1),
    "le": (lambda x: (0.5 >= x).astype(x.dtype), 2 * (X - 0.5), -1),
    "two numbers": (lambda x: jnp.where(x > 0.5, 3.0, 1.0), 2 * (X - 0.5), 2),
    "not": (lambda x: (~(x > 0.5)).astype(x.dtype), 2 * (X - 0.5), -1),
    "reshaped": (lambda x: (x > 0.5)[:, None].T[0].astype(x.dtype), 2 * (X - 0.5), 1),
    "sign": (jnp.sign, X, 1),
}


@pytest.mark.parametrize("name", STEPS)
def test_comparisons_as_numbers(name: str) -> None:
    function, distance, size = STEPS[name]
    np.testing.assert_allclose(direction(function), size * C / (1 + distance**2), rtol=1e-9)


def test_both_of_two_comparisons() -> None:
    """At one edge the other comparison holds, and the window is the step there."""
    found = direction(lambda x: ((x > -1) & (x < 1)).astype(x.dtype))
    slope = 1 / (1 + 4 * (X + 1) ** 2) * (X < 1) - 1 / (1 + 4 * (X - 1) ** 2) * (X > -1)
    np.testing.assert_allclose(found, C * slope, rtol=1e-9)


def test_a_comparison_and_a_boolean_that_is_known() -> None:
    """Of one number the boolean is a literal of the program."""
    for known, slope in ((True, 1), (False, 0)):
        found = direction(lambda x: jnp.where((x[3] > 0.5) & known, 3.0, 1.0) * jnp.ones(7))  # noqa: B023
        expected = np.zeros(7)
        expected[3] = 2 * slope * np.sum(C) / (1 + 4 * (X[3] - 0.5) ** 2)
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def looped(body: Callable[[Array, Array], Any], x: Array) -> tuple[Any, Any]:
    """Two iterations over the elements."""
    return jax.lax.scan(body, jnp.zeros_like(x), jnp.stack([x, 2 * x]))


def test_comparisons_of_loops() -> None:
    """Booleans and counts are numbers as those that are written as such."""

    def number(v: Array, x: Array) -> tuple[Array, Array]:
        return v + x, (v + x > 0.5).astype(x.dtype)

    def boolean(v: Array, x: Array) -> tuple[Array, Array]:
        return v + x, v + x > 0.5

    def carried(carry: Any, x: Array) -> tuple[Any, None]:
        v, fired, count = carry
        fired = (v + x > 0.5) & ~fired
        return (v + x, fired, count + fired), None

    def carried_number(carry: Any, x: Array) -> tuple[Any, None]:
        v, fired, count = carry
        fired = (v + x > 0.5).astype(x.dtype) * (1 - fired)
        return (v + x, fired, count + fired), None

    def pair(x: Array, body: Callable[..., Any], start: Any) -> Array:
        (_, fired, count), _ = jax.lax.scan(body, (0 * x, *start), jnp.stack([x, 2 * x]))
        return fired.astype(x.dtype) + 0.5 * count

    wanted = direction(lambda x: looped(number, x)[1].sum(0))
    assert np.abs(wanted).min() > 0
    for found in (
        direction(lambda x: looped(boolean, x)[1].sum(0).astype(x.dtype)),
        direction(lambda x: jnp.sum(looped(boolean, x)[1], 0) * 1.0),
        direction(lambda x: jnp.where(looped(boolean, x)[1], 1, 0).sum(0).astype(x.dtype)),
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-9)
    no, none = jnp.zeros(7, bool), jnp.zeros(7, jnp.int32)
    np.testing.assert_allclose(
        direction(lambda x: pair(x, carried, (no, none))),
        direction(lambda x: pair(x, carried_number, (0 * X, 0 * X))),
        rtol=1e-9,
    )


INTEGERS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    # Booleans and integers, and what they mean as numbers.
    "two integers": (lambda x: jnp.where(x > 0.5, 3, 1), lambda x: 1 + 2 * (x > 0.5).astype(x.dtype)),
    "levels": (
        lambda x: (x > -1).astype(int) + (x > 1) - 2 * (x > 2),
        lambda x: (x > -1) * 1.0 + (x > 1) * 1.0 - 2.0 * (x > 2),
    ),
    "differ": (lambda x: (x > -1) != (x > 1), lambda x: (x > -1) ^ (x > 1)),
    "agree": (lambda x: (x > -1) == (x > 1), lambda x: ~((x > -1) ^ (x > 1))),
    "one of two": (
        lambda x: jnp.where(x > 0.5, x > 1, x > -1),
        lambda x: (x > 0.5) * 1.0 * (x > 1) + (1 - (x > 0.5) * 1.0) * (x > -1),
    ),
    "all": (lambda x: jnp.all(jnp.stack([x > -1, x < 1]), 0), lambda x: (x > -1) & (x < 1)),
    "any": (lambda x: jnp.any(jnp.stack([x < -1, x > 1]), 0), lambda x: (x < -1) | (x > 1)),
    "taken": (lambda x: (x > 0.5)[jnp.array([6, 0, 0, 1, 2, 3, 4])],
              lambda x: ((x > 0.5) * 1.0)[jnp.array([6, 0, 0, 1, 2, 3, 4])]),
    "placed": (
        lambda x: jax.jit(lambda x: x > 0.5, out_shardings=SingleDeviceSharding(jax.devices()[0]))(x),
        lambda x: x > 0.5,
    ),
    "kept": (jax.checkpoint(lambda x: x > 0.5), lambda x: x > 0.5),
    "branch": (
        lambda x: jax.lax.cond(jnp.sum(x) > 0, lambda x: x > 0.5, lambda x: x < 0.5, x),
        lambda x: x > 0.5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_of_comparisons(name: str) -> None:
    given, meant = INTEGERS[name]
    found, wanted = (direction(lambda x, f=f: f(x).astype(x.dtype)) for f in (given, meant))
    assert np.abs(wanted).max() > 0
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


def test_a_condition_of_values_that_move_is_held() -> None:
    np.testing.assert_allclose(
        direction(lambda x: jnp.where(x > 0, x, 0.1 * x)), C * jnp.where(X > 0, 1, 0.1)
    )
    np.testing.assert_allclose(direction(lambda x: x[jnp.argsort(x)]), C)
    assert not direction(lambda x: jnp.argmax(x) * jnp.ones(7)).any()


@pytest.mark.parametrize("k", [1, 3, 7])
def test_the_largest_entries(k: int) -> None:
    """What is near the threshold moves, and the scores together do not."""
    found = direction(lambda x: pjp.top_k_mask(x, k))
    if k == 7:
        assert not found.any()
        return
    ordered = np.sort(X)[::-1]
    p = 1 / (1 + 4 * (np.asarray(X) - (ordered[k - 1] + ordered[k]) / 2) ** 2)
    c = np.asarray(C)
    np.testing.assert_allclose(found, p * (c - np.sum(p * c) / np.sum(p)), rtol=1e-9)
    np.testing.assert_allclose(np.sum(found), 0, atol=1e-12)
    if k == 1:
        np.testing.assert_allclose(direction(pjp.one_hot_argmax), found)


def test_ties() -> None:
    zero = jnp.zeros(7)
    np.testing.assert_array_equal(direction(lambda x: jnp.maximum(x, 0), zero), np.where(C < 0, C, 0))
    np.testing.assert_array_equal(direction(lambda x: jnp.minimum(0, x), zero), np.where(C > 0, C, 0))
    np.testing.assert_array_equal(direction(pjp.sum_relu, zero), np.where(C < 0, C, 0))
    both = pjp.displacement(lambda p: jnp.sum(C * jnp.maximum(*p)))((X, X))
    np.testing.assert_array_equal(both[0], C)  # the first goes up alone
    np.testing.assert_array_equal(both[1], np.where(C > 0, C, 0))


def test_author_rules_stay() -> None:
    @jax.custom_jvp
    def straight_through(x: Array) -> Array:
        return jnp.round(x)

    straight_through.defjvp(lambda primals, tangents: (straight_through(*primals), tangents[0]))
    np.testing.assert_array_equal(direction(straight_through), C)
    np.testing.assert_array_equal(direction(jax.nn.relu, jnp.zeros(7)), 0)


def test_spiking_neurons_train_their_weights() -> None:
    def spikes(w: Array, x: Array) -> Array:
        def step(v: Array, x: Array) -> tuple[Array, Array]:
            v = 0.9 * v + w @ x
            spike = (v > 1).astype(v.dtype)
            return v * (1 - spike), spike

        return jax.lax.scan(step, jnp.zeros(3), x)[1].mean(0)

    w, x = jax.random.normal(jax.random.key(0), (3, 4)), jax.random.normal(jax.random.key(1), (9, 4))
    found = pjp.displacement(lambda w: jnp.sum(spikes(w, x)))(w)
    assert np.isfinite(found).all() and (np.abs(found) > 0).all()


def primitive() -> Primitive:
    """A hard function of a user's: the sign, without a derivative."""
    made = Primitive("hard")
    made.def_impl(lambda x: jnp.sign(x))
    made.def_abstract_eval(lambda x: jax.core.ShapedArray(x.shape, x.dtype))
    mlir.register_lowering(made, mlir.lower_fun(jnp.sign, multiple_results=False))
    batching.defvectorized(made)
    ad.defjvp(made, lambda t, x: jnp.zeros_like(t))
    return made


@pytest.mark.parametrize(
    "wrap", [lambda f: f, jax.jit, jax.vmap, jax.checkpoint], ids=["eager", "jit", "vmap", "checkpoint"]
)
def test_a_pullback_of_a_user(wrap: Any) -> None:
    hard = primitive()
    pjp.register_pullback(hard, lambda step, cotangents: (cotangents[0] * jnp.exp(-(step.operands[0] ** 2)),))
    np.testing.assert_allclose(direction(wrap(hard.bind)), C * np.exp(-(X**2)), rtol=1e-9)


def test_wrong_pullbacks() -> None:
    hard = primitive()
    with pytest.raises(pjp.ArgumentError, match="primitive: expected a jax.extend.core.Primitive, given str"):
        pjp.register_pullback("hard", lambda step, cotangents: cotangents)  # type: ignore[arg-type]
    with pytest.raises(pjp.ArgumentError, match="pullback: expected a function"):
        pjp.register_pullback(hard, 3)  # type: ignore[arg-type]
    pjp.register_pullback(hard, lambda step, cotangents: (cotangents[0][:1],))
    with pytest.raises(pjp.ArgumentError, match="'hard' already has a pullback"):
        pjp.register_pullback(hard, lambda step, cotangents: cotangents)
    with pytest.raises(pjp.ArgumentError, match=r"'hard': expected shape \(7,\) for operand 0, given \(1,\)"):
        direction(hard.bind)
    pjp.register_pullback(hard, lambda step, cotangents: cotangents[0], replace=True)
    with pytest.raises(pjp.ArgumentError, match="'hard': expected a cotangent or None for each of 1"):
        direction(hard.bind)


FRACTIONS: dict[str, Callable[[Array], Array]] = {
    "floor": lambda x: x - jnp.floor(x),
    "ceil": lambda x: jnp.ceil(x) - x,
    "round": lambda x: jnp.square(x - jax.jit(jnp.round)(x)),
    "between two entries": lambda x: jax.scipy.ndimage.map_coordinates(jnp.arange(9.0) ** 2, [x + 4], 1),
}


@pytest.mark.parametrize("name", FRACTIONS)
def test_what_rounding_leaves_of_a_number_has_a_slope(name: str) -> None:
    x = jnp.array([-3.2, -1.1, -0.4, 0.3, 0.8, 1.4, 2.6])

    def total(x: Array) -> Array:
        return jnp.sum(FRACTIONS[name](x))

    np.testing.assert_allclose(pjp.displacement(total)(x), jax.grad(total)(x), rtol=1e-6)
