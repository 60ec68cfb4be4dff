"""Threshold networks: the divided form, reflect-reflect-relax, many starts."""

import math
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import pjax_prim as pjp
from pjax_prim.feasibility import FeasibilityProblem
from pjax_prim.models import ThresholdNetwork

from .problems import PROBLEMS, Problem
from .test_every_problem import check_solution

EVERY_PROBLEM = pytest.mark.parametrize(
    "problem",
    [pytest.param(x, marks=pytest.mark.slow if i % 4 else ()) for i, x in enumerate(PROBLEMS)],
    ids=str,
)
XOR_X = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
XOR_Y = jnp.array([[-1.0], [1.0], [1.0], [-1.0]])
SOLVER = pjp.ReflectReflectRelax()


def loss(model: ThresholdNetwork, x: Array, y: Array) -> Array:
    return pjp.equality(jax.vmap(model)(x), y)


def network(key: Array, sizes: tuple[int, ...] = (2, 3, 1), sigma: float = 3.0) -> ThresholdNetwork:
    return ThresholdNetwork(sizes, sigma=sigma, key=key)


def is_exact(model: ThresholdNetwork) -> Array:
    return jnp.all(jax.vmap(model)(XOR_X) == XOR_Y)


@EVERY_PROBLEM
def test_every_problem(problem: Problem) -> None:
    solver = pjp.ReflectReflectRelax(restriction=None)
    first, last = (problem.solve(solver, steps) for steps in (1, 100))
    check_solution(problem, first, 1)
    check_solution(problem, last, 100)
    assert last.stats["gap"] < 0.9 * first.stats["gap"]


@EVERY_PROBLEM
def test_consensus_is_nearest(problem: Problem) -> None:
    """The weighted squared distance to copies that agree is stationary in the values they agree on."""
    params, *args = problem.arguments
    prepared = FeasibilityProblem.of(problem.fn, params, *args)
    graph = prepared.graph_for(SOLVER)
    divided = prepared.numbers(graph, "divided")
    random = np.random.default_rng(0)
    state = tuple(
        tuple(x + random.standard_normal(x.shape) for x in node[:-1])
        + (jnp.exp(random.standard_normal(node[-1].shape)),)
        if divided.is_divided(i)
        else node
        for i, node in enumerate(divided.initial(prepared.trained))
    )
    values = {i: divided.consensus(i, state) for i, node in enumerate(graph.nodes) if node.output is not None}

    def cost(values: dict[int, Array]) -> Array:
        agreed = tuple(divided._state(i, values, node[-1] if node else None) for i, node in enumerate(state))
        squared = divided.squared_distances(state, agreed)
        return sum(jnp.sum(x[0] * node[-1]) for x, node in zip(squared, state, strict=True) if x)

    slopes = jax.jit(jax.grad(cost))(values)
    scale = max(float(jnp.max(jnp.abs(x))) for x in values.values())
    for index, slope in slopes.items():
        labelled = any(divided._is_given(use.consumer) for use in graph.uses[index])
        if not labelled:
            np.testing.assert_allclose(slope, 0, atol=1e-10 * scale)


def test_metric_follows_the_gaps() -> None:
    model = network(jax.random.key(0))
    prepared = FeasibilityProblem.of(loss, model, XOR_X, XOR_Y)
    graph = prepared.graph_for(SOLVER)
    divided = prepared.numbers(graph, "divided")
    state = SOLVER.init(divided, prepared.trained)
    np.testing.assert_array_equal(state[2][-1], jnp.ones((4, 3)))  # rows and neurons of the first layer
    squared = tuple((4.0 * jnp.ones_like(node[-1]),) if len(node) > 1 else () for node in state)
    first = next(i for i, x in enumerate(squared) if x)
    squared = (*squared[:first], (squared[first][0].at[0, 0].set(36.0),), *squared[first + 1 :])
    moved = divided.adapt(state, squared, 0.1)
    count = sum(x[0].size for x in squared if x)
    mean = (2.0 * (count - 1) + 6.0) / count
    np.testing.assert_allclose(moved[first][-1][0, 0], 0.9 + 0.1 * 6 / mean, rtol=1e-12)
    np.testing.assert_allclose(moved[first][-1][1, 1], 0.9 + 0.1 * 2 / mean, rtol=1e-12)


@pytest.mark.parametrize(
    "restriction",
    [
        pjp.FixedNorm(),
        pjp.FixedNorm(1.3),
        pjp.Bounds(-0.5, 2),
        pjp.Sign(),
        pjp.Sparse(2),
        pjp.Levels((-1.0, 1.0)),
    ],
    ids=str,
)
def test_parameters_are_in_their_restriction(restriction: pjp.AbstractRestriction) -> None:
    solver = pjp.ReflectReflectRelax(restriction=restriction)
    solution = pjp.solve(loss, network(jax.random.key(1)), XOR_X, XOR_Y, solver=solver, max_steps=7)
    for w in solution.params.weights:
        np.testing.assert_allclose(restriction.project(w), w, rtol=0, atol=1e-14)


def test_restrictions_by_name() -> None:
    rules = (("weights.1", None), ("weights.*", pjp.Sign()))
    solver = pjp.ReflectReflectRelax(restriction=rules)
    solution = pjp.solve(loss, network(jax.random.key(1)), XOR_X, XOR_Y, solver=solver, max_steps=7)
    first, second = solution.params.weights
    assert (first >= 0).all() and (second < 0).any()
    wrong = pjp.ReflectReflectRelax(restriction=(("layers.*", None),))
    with pytest.raises(pjp.ArgumentError, match="matches no parameter; there are weights.0, weights.1"):
        pjp.solve(loss, network(jax.random.key(1)), XOR_X, XOR_Y, solver=wrong, max_steps=7)


def test_known_labels() -> None:
    """The neurons of labels are projected onto the branch of their label, all others as before."""
    model = network(jax.random.key(2))
    prepared = FeasibilityProblem.of(loss, model, XOR_X, XOR_Y)
    graph = prepared.graph_for(SOLVER)
    divided = prepared.numbers(graph, "divided")
    random = np.random.default_rng(0)
    state = jax.tree.map(lambda x: x + random.standard_normal(x.shape), divided.initial(prepared.trained))
    free, known = (divided.project(state, flag) for flag in (False, True))
    hidden, last = (i for i, node in enumerate(graph.nodes) if node.kind == "threshold_dot")
    chex.assert_trees_all_equal(free[hidden], known[hidden])
    w, x, y, _ = known[last]
    np.testing.assert_array_equal(y, XOR_Y)
    assert (free[last][2] != XOR_Y).any()
    np.testing.assert_array_less(math.sqrt(4 / 3) - 1e-9, XOR_Y * jnp.sum(w * x, -1))
    labels = jnp.broadcast_to(1e6 * XOR_Y, state[last][2].shape)
    given = divided.project(tuple((*n[:-2], labels, n[-1]) if i == last else n for i, n in enumerate(state)))
    chex.assert_trees_all_close(known[last], given[last], rtol=1e-12)


def starts(**settings: Any) -> pjp.Starts:
    chosen = {
        "key": jax.random.key(0),
        "starts": 6,
        "solver": SOLVER,
        "max_steps": 1000,
        "is_solved": is_exact,
    }
    return pjp.solve_starts(loss, network, XOR_X, XOR_Y, **chosen | settings)


def test_starts_stop_at_their_solutions() -> None:
    found = starts()
    exact = jax.vmap(is_exact)(found.params)
    np.testing.assert_array_equal(found.solved, exact)
    assert found.success_rate == np.mean(exact) > 0
    assert (found.steps[found.solved] < 1000).all()
    assert (found.steps[~found.solved] == 1000).all()
    mean, error = found.steps_per_solution
    assert mean == found.steps.sum() / found.solved.sum()
    assert error > 0 and found.seconds > 0
    assert found.seconds_per_solution == found.seconds / found.solved.sum()


def test_starts_do_not_depend_on_lanes_chunks_and_devices() -> None:
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    expected = starts()
    for settings in ({"lanes": 1, "chunk": 7}, {"lanes": 4, "mesh": mesh}):
        found = starts(**settings)
        np.testing.assert_array_equal(found.steps, expected.steps)
        np.testing.assert_array_equal(found.solved, expected.solved)
        chex.assert_trees_all_close(found.params, expected.params, rtol=0, atol=1e-9)


def test_a_start_is_a_solve() -> None:
    """A start that is solved is what `solve` finds from its parameters in as many steps."""
    found = starts()
    i = int(np.flatnonzero(found.solved)[0])
    model = network(jax.random.split(jax.random.key(0), 6)[i])
    alone = pjp.solve(loss, model, XOR_X, XOR_Y, solver=SOLVER, max_steps=int(found.steps[i]))
    assert is_exact(alone.params)
    for many, one in zip(found.params.weights, alone.params.weights, strict=True):
        np.testing.assert_allclose(many[i], one, rtol=0, atol=1e-9)


def test_no_solution() -> None:
    found = starts(starts=2, max_steps=5, is_solved=lambda model: jnp.zeros((), bool))
    assert found.steps_per_solution == (math.inf, math.inf)
    assert found.seconds_per_solution == math.inf
    assert found.success_rate == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"starts": 0}, "starts: expected an integer of at least 1, given 0"),
        ({"lanes": True}, "lanes: expected an integer of at least 1, given True"),
        ({"chunk": 1.5}, "chunk: expected an integer of at least 1, given 1.5"),
        ({"max_steps": 0}, "max_steps: expected an integer of at least 1, given 0"),
        ({"tol": -1.0}, "tol: expected a finite number of at least 0 or None, given -1.0"),
        ({"solver": "rrr"}, "solver: expected a solver such as"),
    ],
)
def test_bad_starts(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(pjp.ArgumentError, match=message):
        starts(**settings)


def test_a_mesh_without_data() -> None:
    mesh = jax.make_mesh((2,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    with pytest.raises(pjp.ArgumentError, match="mesh: expected an axis \"data\", given \\('model',\\)"):
        starts(mesh=mesh)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            partial(pjp.ReflectReflectRelax, beta=0.0),
            "beta: .* above 0 and below 2, given 0.0",
        ),
        (partial(pjp.ReflectReflectRelax, beta=2), "beta: expected a number above 0 and below 2, given 2"),
        (partial(pjp.ReflectReflectRelax, gamma=-0.1), "gamma: .* at least 0 and below 1, given -0.1"),
        (partial(pjp.ReflectReflectRelax, gamma=1.0), "gamma: .* at least 0 and below 1, given 1.0"),
        (partial(pjp.ReflectReflectRelax, form="expanded"), "form: .*'divided', given 'expanded'"),
        (partial(pjp.FixedNorm, 0.0), "length: expected a finite number above zero, given 0.0"),
        (partial(pjp.Bounds, 1.0, 0.5), "low and high: expected low <= high, given 1.0 and 0.5"),
        (partial(pjp.Sparse, 0), "count: expected an integer of at least 1, given 0"),
        (partial(pjp.Levels, (1.0, 1.0)), "values: expected increasing numbers, at least one"),
    ],
)
def test_bad_settings(make: Any, message: str) -> None:
    with pytest.raises(pjp.ArgumentError, match=message):
        make()


def test_labels_are_signs() -> None:
    with pytest.raises(pjp.ArgumentError, match=r"labels: expected -1 or 1.*, given 0.0 at index \(1, 0\)"):
        pjp.solve(loss, network(jax.random.key(0)), XOR_X, XOR_Y.at[1].set(0), solver=SOLVER, max_steps=1)


def test_margins_that_no_weights_meet() -> None:
    with pytest.raises(pjp.ArgumentError, match="sigma: expected at least 1/3 for 3 inputs, given 0.3"):
        pjp.constraint_graph(loss)(network(jax.random.key(0), sigma=0.3), XOR_X, XOR_Y)
    solver = pjp.ReflectReflectRelax(restriction=pjp.FixedNorm(0.5))
    message = "restriction: no weights of length 0.5 meet the margin 1 of threshold_dot_0 .* at least 0.57735"
    with pytest.raises(pjp.ArgumentError, match=message):
        pjp.solve(loss, network(jax.random.key(0)), XOR_X, XOR_Y, solver=solver, max_steps=1)
