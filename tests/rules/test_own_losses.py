"""Losses of one's own are nodes of graphs, differentiable, and work in every transformation."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import pjax_prim as pjp

TAU = 0.8


def pinball_value(x: Array, target: Array) -> Array:
    return jnp.maximum(TAU * (target - x), (TAU - 1) * (target - x))


def pinball_prox(x: Array, target: Array, step: Array) -> Array:
    return x + jnp.clip(target - x, (TAU - 1) * step, TAU * step)


pinball = pjp.register_loss("pinball", value=pinball_value, prox=pinball_prox)
distance = pjp.register_loss(
    "distance",
    value=lambda x, target: jnp.sqrt(jnp.sum((x - target) ** 2, -1)),
    prox=lambda x, target, step: (
        target + (x - target) * jax.nn.relu(1 - step / jnp.linalg.norm(x - target, axis=-1))[..., None]
    ),
)
halves = pjp.register_loss(
    "halves",
    value=lambda x, target: 0.5 * jnp.sum((x - jax.nn.one_hot(target, x.shape[-1])) ** 2, -1),
    prox=lambda x, target, step: (
        (x + step[..., None] * jax.nn.one_hot(target, x.shape[-1])) / (1 + step[..., None])
    ),
)

K = jax.random.key
X, Y = jax.random.normal(K(0), (64, 3)), jax.random.normal(K(1), (64,))
W = jax.random.normal(K(2), (3, 4))


def test_value_and_gradient() -> None:
    for transform in (lambda f: f, jax.jit, jax.vmap):
        np.testing.assert_array_equal(transform(pinball)(Y, 2 * Y), pinball_value(Y, 2 * Y))
    found = jax.grad(lambda y: jnp.sum(pinball(y, 2 * Y)))(Y)
    np.testing.assert_allclose(found, jax.grad(lambda y: jnp.sum(pinball_value(y, 2 * Y)))(Y))
    rows = jax.vmap(distance, (0, None))(X, X[0])
    np.testing.assert_allclose(rows, jnp.linalg.norm(X - X[0], axis=-1), rtol=1e-6)
    assert pinball(Y.astype("bfloat16"), Y).dtype == "bfloat16"
    np.testing.assert_allclose(jax.vmap(lambda lam: pinball(1.0, 0.0, lam))(jnp.arange(1.0, 4)), [0.2] * 3)


def test_the_quantile_is_found() -> None:
    """The minimum of the mean pinball loss is a quantile."""

    def fn(level: Array, y: Array) -> Array:
        return pinball(jnp.broadcast_to(level, y.shape), y, lam=0.02)

    solution = pjp.solve(fn, jnp.zeros(()), Y, solver=pjp.AlternatingProjections(), max_steps=2000)
    np.testing.assert_allclose(solution.params, jnp.quantile(Y, TAU), atol=0.1)


def test_nodes_of_graphs() -> None:
    graph = pjp.constraint_graph(lambda w: pinball(X @ w, Y))(W[:, 0])
    assert "loss_0[pinball]" in str(graph)


@pytest.mark.parametrize("lam", [1e-8, 0.3])
def test_proximal_steps_of_displacements(lam: float) -> None:
    fn = lambda x: jnp.sum(distance(x, jnp.zeros(3)))  # noqa: E731
    found = pjp.displacement(fn, lam=lam)(X)
    nearer = X * (1 - jax.nn.relu(1 - lam / jnp.linalg.norm(X, axis=-1, keepdims=True)))
    np.testing.assert_allclose(found / jnp.linalg.norm(found), nearer / jnp.linalg.norm(nearer), rtol=1e-4)


def test_it_is_a_loss_of_the_library_in_all_solvers() -> None:
    """Half the squared distance, once more."""
    labels = jnp.arange(64) % 4

    def fn(loss: Any) -> Any:
        return lambda w, x, labels: jax.vmap(lambda row, y: loss(jnp.tanh(row @ w), y))(x, labels)

    for solver in (pjp.AlternatingProjections(), pjp.DouglasRachford(0.5), pjp.ExtrapolatedProjections()):
        found, expected = (
            pjp.solve(fn(loss), W, X, labels, solver=solver, max_steps=5).params
            for loss in (halves, pjp.squared_error)
        )
        chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)


def test_steps_of_zero_leave_out() -> None:
    some = jnp.arange(64) % 2 == 0

    def solved(left_out: float) -> Array:
        y = jnp.where(some, Y, left_out)
        fn = lambda w: pinball(X @ w, y, some.astype(X.dtype))  # noqa: E731
        return pjp.solve(fn, W[:, 0], solver=pjp.AlternatingProjections(), max_steps=5).params

    np.testing.assert_array_equal(solved(jnp.nan), solved(0.0))
    assert not np.array_equal(solved(jnp.nan), W[:, 0])


def test_in_a_loop() -> None:
    def fn(w: Array) -> Array:
        return jax.lax.scan(lambda total, xy: (total, pinball(xy[0] @ w, xy[1])), 0.0, (X, Y))[1]

    graph = pjp.constraint_graph(fn)(W[:, 0])
    assert len(graph.losses) == 1
    solved = pjp.solve(fn, W[:, 0], solver=pjp.AlternatingProjections(), max_steps=3).params
    plain = pjp.solve(
        lambda w: pinball(X @ w, Y), W[:, 0], solver=pjp.AlternatingProjections(), max_steps=3
    ).params
    np.testing.assert_allclose(solved, plain, rtol=1e-5)


ERRORS: dict[str, tuple[Any, str]] = {
    "name": (lambda: pjp.register_loss("pinball", pinball_value, pinball_prox), "name: .* given 'pinball'"),
    "library": (lambda: pjp.register_loss("huber", pinball_value, pinball_prox), "name: .* given 'huber'"),
    "words": (lambda: pjp.register_loss("my loss", pinball_value, pinball_prox), "name: expected an identif"),
    "value": (lambda: pjp.register_loss("a", 3, pinball_prox), "value: expected a function, given 3"),
    "prox": (lambda: pjp.register_loss("a", pinball_value, None), "prox: expected a function, given None"),
    "shape of value": (
        lambda: pjp.register_loss("b", lambda x, t: jnp.sum(x, 0), pinball_prox)(X, X),
        r"value: .* the first of x, of shape \(64, 3\), given shape \(3,\)",
    ),
    "shape of prox": (
        lambda: pjp.register_loss("c", pinball_value, lambda x, t, s: jnp.sum(x))(Y, Y),
        r"prox: expected an array of the shape of x, \(64,\), given shape \(\)",
    ),
    "lam": (lambda: pinball(Y, Y, lam=-1.0), "lam: expected a finite number above zero, given -1.0"),
    "lam's shape": (
        lambda: pinball(Y, Y, lam=jnp.ones(3)),
        r"lam: expected a shape .* to \(64,\), given \(3,",
    ),
    "x": (lambda: pinball(jnp.arange(3), Y), "x: expected a floating-point array"),
    "target": (lambda: pinball(Y, None), "target: expected an array, given"),
}


@pytest.mark.parametrize(("call", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_errors(call: Any, message: str) -> None:
    with pytest.raises(pjp.ArgumentError, match=message):
        call()
