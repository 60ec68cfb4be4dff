"""What a function makes of its losses: weights in solvers, and what is minimised."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import pjax_prim as pjp
from pjax_prim.feasibility import FeasibilityProblem

X, Y, W = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(6, 4), (6, 3), (4, 3)]))
LABELS = jnp.arange(6) % 3
MASK = jnp.array([1.0, 0, 1, 1, 0, 1])


def each(w: Array) -> Array:
    return pjp.squared_error(X @ w, Y, lam=0.5)


def steps(fn: Callable[..., Any], *args: Any) -> list[np.ndarray]:
    """The steps of the proximal operators, loss by loss."""
    problem = FeasibilityProblem.of(fn, W, *args)
    environment = problem.graph.constants(problem.data, problem.captured)
    found = []
    for index in problem.graph.losses:
        value = problem.graph.nodes[index].constants[-1]
        found.append(np.asarray(environment[value] if value.literal is None else value.literal))
    return found


def in_a_scan(w: Array) -> Array:
    def body(total: Array, row: Any) -> tuple[Array, None]:
        x, y, weight = row
        return total + weight * pjp.squared_error(x @ w, y, lam=0.5), None

    return jax.lax.scan(body, jnp.zeros(()), (X, Y, 1 + MASK))[0] / 5


def nested_scans(w: Array) -> Array:
    def outer(total: Array, rows: Any) -> tuple[Array, None]:
        def inner(part: Array, row: Any) -> tuple[Array, None]:
            x, y, weight = row
            return part + weight * pjp.squared_error(x @ w, y, lam=0.5), None

        return total + jax.lax.scan(inner, jnp.zeros(()), rows)[0], None

    rows = jax.tree.map(lambda x: x.reshape(2, 3, *x.shape[1:]), (X, Y, 1 + MASK))
    return jax.lax.scan(outer, jnp.zeros(()), rows)[0]


WEIGHTS: dict[str, tuple[Callable[[Array], Any], list[Any]]] = {
    # With the relative weights of each loss's elements, up to one factor.
    "array": (each, [np.ones(6)]),
    "mean": (lambda w: jnp.mean(each(w)), [np.ones(6)]),
    "sum": (lambda w: 3 * jnp.sum(each(w)), [np.ones(6)]),
    "mask": (lambda w: jnp.sum(MASK * each(w)) / jnp.sum(MASK), [MASK]),
    "where": (lambda w: jnp.mean(jnp.where(MASK > 0, each(w), 0.0)), [MASK]),
    "rows": (lambda w: jnp.mean(each(w)[jnp.array([0, 2, 2])]), [np.array([1, 0, 2, 0, 0, 0])]),
    "weights": (lambda w: each(w) @ (1 + MASK), [1 + MASK]),
    "two": (
        lambda w: 0.1 * jnp.mean(each(w)) + 3 * jnp.mean(pjp.cross_entropy(X @ w, LABELS, lam=0.5)),
        [np.full(6, 0.1), np.full(6, 3.0)],
    ),
    "two lengths": (
        lambda w: jnp.mean(each(w)) + jnp.mean(pjp.squared_error(X[:1] @ w, Y[:1], lam=0.5)),
        [np.full(6, 1 / 6), np.ones(1)],
    ),
    "two results": (
        lambda w: (each(w), pjp.squared_error(X[:2] @ w, Y[:2], lam=0.5)),
        [np.full(6, 1 / 6), np.full(2, 1 / 2)],
    ),
    "minus a constant": (lambda w: jnp.mean(each(w)) - jnp.log(3.0), [np.ones(6)]),
    "scan": (in_a_scan, [1 + MASK]),
    "nested scans": (nested_scans, [(1 + MASK).reshape(2, 3)]),
    "stopped": (lambda w: jnp.mean(each(w)) + jax.lax.stop_gradient(jnp.sum(w**2)), [np.ones(6)]),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_steps_are_in_proportion_to_weights(name: str) -> None:
    fn, weights = WEIGHTS[name]
    found = steps(fn)
    every = np.concatenate([np.ravel(x) for x in weights])
    mean = every[every != 0].mean()
    assert len(found) == len(weights)
    for step, weight in zip(found, weights, strict=True):
        np.testing.assert_allclose(step, 0.5 * np.asarray(weight) / mean, rtol=1e-6)
    if np.ptp(every) == 0:  # bit for bit
        assert all((step == 0.5).all() for step in found)


def test_what_a_mask_leaves_out_is_not_there() -> None:
    solver = pjp.AlternatingProjections()
    kept = np.flatnonzero(MASK)

    def masked(w: Array) -> Array:
        return jnp.sum(MASK * pjp.squared_error(X @ w, Y)) / jnp.sum(MASK)

    problem = FeasibilityProblem.of(masked, W)
    gaps = problem.gaps()
    expected = jnp.linalg.norm((X @ W - Y)[kept]) / 2
    np.testing.assert_allclose(gaps["loss_0"], expected, rtol=1e-6)
    solution = pjp.solve(masked, W, solver=solver, max_steps=200)
    assert float(masked(solution.params)) < 0.2 * float(masked(W))


MINIMISED: dict[str, tuple[Callable[[Array], Any], list[tuple[int, ...]]]] = {
    # With the shapes of what is minimised.
    "norm": (lambda w: jnp.sum(jnp.exp(X @ w)), [(6, 3)]),
    "a number": (lambda w: jnp.log(jnp.sum(jnp.exp(w))), [()]),
    "regulariser": (lambda w: jnp.mean(each(w)) + 0.01 * jnp.sum(jnp.abs(w)), [(4, 3)]),
    "explicit": (lambda w: jnp.sum(pjp.minimise(jnp.exp(w))), [(4, 3)]),
}
SIGNED: dict[str, tuple[Callable[[Array], Any], list[tuple[int, ...]]]] = {
    "maximised": (lambda w: -jnp.mean(jnp.tanh(X @ w)), [(6, 3)]),
    "a difference": (
        lambda w: jnp.mean(jax.nn.logsumexp(X @ w, -1, b=jnp.arange(1.0, 4.0)) - (X @ w)[:, 0]),
        [(4, 3), (6,)],
    ),
    "of a policy": (lambda w: -jnp.mean(Y * jnp.log(jax.nn.sigmoid(X @ w))), [(6, 3)]),
    "beside a loss": (lambda w: jnp.mean(each(w)) - 0.1 * jnp.mean(jnp.tanh(X @ w)), [(6, 3)]),
}


@pytest.mark.parametrize("name", [*MINIMISED, *SIGNED])
def test_what_has_no_loss_is_minimised(name: str) -> None:
    """Of terms with either sign, by a solver that moves parameters by all terms at once."""
    fn, shapes = (MINIMISED | SIGNED)[name]
    graph = FeasibilityProblem.of(fn, W).graph
    found = [
        graph.nodes[i].operands[0].value.shape
        for i in graph.losses
        if graph.nodes[i].constraint.describe().startswith("minimise")
    ]
    assert found == shapes or name == "regulariser"
    solver = pjp.ExtrapolatedProjections() if name in SIGNED else pjp.AlternatingProjections()
    assert float(fn(pjp.solve(fn, W, solver=solver, max_steps=20).params)) < float(fn(W))
    if name in SIGNED:
        with pytest.raises(pjp.GraphError, match="number that is no loss.*AlternatingProjections moves each"):
            pjp.solve(fn, W, solver=pjp.AlternatingProjections(), max_steps=1)


@pytest.mark.parametrize("name", ["norm", "a difference"])
def test_joint_projections_go_on_with_what_is_minimised(name: str) -> None:
    """Its gap is the same everywhere, so that it does not say whether a step is one forward."""
    fn, _ = (MINIMISED | SIGNED)[name]
    once, again = (
        fn(pjp.solve(fn, W, solver=pjp.JointProjections(), max_steps=jnp.array(count)).params)
        for count in (1, 6)
    )
    assert again < once < fn(W)


def test_numbers_have_weights_of_either_sign() -> None:
    """A proximal operator of a number goes down or up, by steps in proportion to the size of its weight."""
    signs = jnp.array([1.0, -3, 0, -2, 1, -1])
    (found,) = steps(lambda w: signs @ jnp.tanh(X @ w)[:, 0])
    np.testing.assert_allclose(found[:, 0], signs * 5 / 8, rtol=1e-6)
    negative = steps(lambda w: jnp.mean(each(w)) - 2 * jnp.mean(jnp.exp(w)))
    np.testing.assert_allclose(negative[0], 0.5 * (1 / 6) / (3 / 18), rtol=1e-6)
    np.testing.assert_allclose(negative[1], -(2 / 12) / (3 / 18), rtol=1e-6)


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda w: -jnp.mean(each(w)), "weight below zero"),
        (lambda w: jnp.mean(each(w)) - jnp.mean(pjp.cross_entropy(X @ w, LABELS)), "weight below zero"),
        (lambda w: jnp.exp(jnp.mean(each(w))), "'exp' after a loss is not linear"),
        (lambda w: jnp.max(each(w)), "'reduce_max' after a loss is not linear"),
        (lambda w: jnp.sum(each(w)) * jnp.sum(w), "'mul' after a loss is not linear"),
        (lambda w: jnp.sum(X), "depends on no parameter"),
        (lambda w: jnp.argmax(w), "depends on no parameter|floating-point"),
    ],
)
def test_what_cannot_be_solved(fn: Callable[[Array], Any], message: str) -> None:
    with pytest.raises(pjp.GraphError, match=message):
        pjp.solve(fn, W, solver=pjp.AlternatingProjections(), max_steps=1)


def test_a_number_that_is_nowhere_has_no_weight() -> None:
    """Indices out of range give NaN, as the value of the function is."""

    def fn(w: Array) -> Array:
        return jnp.mean(jnp.exp(X @ w)[:, 0] - jnp.take_along_axis(X @ w, LABELS[:, None] + 3, 1)[:, 0])

    assert jnp.isnan(fn(W))
    solution = pjp.solve(fn, W, solver=pjp.ExtrapolatedProjections(), max_steps=1)
    assert solution.result == pjp.RESULTS.nonfinite


@pytest.mark.parametrize("term", [each, jnp.tanh])
def test_a_negative_weight_that_is_traced_makes_the_result_non_finite(term: Callable[[Array], Array]) -> None:
    @jax.jit
    def solve(scale: Array) -> Array:
        solution = pjp.solve(
            lambda w: scale * jnp.mean(term(w)), W, solver=pjp.AlternatingProjections(), max_steps=1
        )
        return solution.result == pjp.RESULTS.nonfinite

    assert not solve(jnp.array(2.0)) and solve(jnp.array(-2.0))
