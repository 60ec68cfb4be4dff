"""Joint projections: the nearest point where conditions are linear, and a gap that never grows."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import pjax_prim as pjp


def normal(seed: int, *shape: int) -> Array:
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("rows", [3, 12], ids=["fewer conditions", "more conditions"])
def test_linear_conditions_have_their_nearest_point(rows: int) -> None:
    """With more conditions than parameters, the one of least squares."""
    x, w, target = normal(0, rows, 5), normal(1, 5, 2), normal(2, rows, 2)
    solution = pjp.solve(
        lambda w, x: pjp.equality(x @ w, target), w, x, solver=pjp.JointProjections(), max_steps=1
    )
    expected = w + np.linalg.pinv(np.asarray(x)) @ (target - x @ w)
    np.testing.assert_allclose(solution.params, expected, atol=1e-8)
    gap = np.linalg.norm(x @ expected - target)
    np.testing.assert_allclose(solution.stats["gap"], gap, atol=1e-8)


def test_one_iteration_goes_along_the_mean_displacement_as_far_as_it_helps() -> None:
    x, w, target = normal(0, 4, 5), normal(1, 5), normal(2, 4)
    solver = pjp.JointProjections(iterations=1)
    solution = pjp.solve(lambda w, x: pjp.equality(x @ w, target), w, x, solver=solver, max_steps=1)
    asked = target - x @ w
    along = x.T @ asked
    length = (along @ along) / jnp.sum((x @ along) ** 2)
    np.testing.assert_allclose(solution.params, w + length * along, rtol=1e-10)


def test_a_step_that_would_go_too_far_is_halved() -> None:
    """On a wave the linearised condition lies far beyond the nearest solution."""

    def loss(w: Array, target: Array) -> Array:
        return pjp.equality(jnp.sin(6 * w), target)

    w, target = jnp.array([0.2, 0.24, 0.28]), jnp.array([-0.9, 0.5, 0.99])
    gaps = [float(pjp.gap(loss)(w, target))]
    plain = w + (target - jnp.sin(6 * w)) / (6 * jnp.cos(6 * w))
    assert pjp.gap(loss)(plain, target) > gaps[0]
    for _ in range(12):
        solution = pjp.solve(loss, w, target, solver=pjp.JointProjections(), max_steps=1)
        w = solution.params
        gaps.append(float(solution.stats["gap"]))
        np.testing.assert_allclose(gaps[-1], pjp.gap(loss)(w, target), atol=1e-8)
    assert all(new <= old for old, new in zip(gaps, gaps[1:], strict=False))
    assert gaps[-1] < 0.1 * gaps[0]


def test_where_nothing_helps_parameters_stay() -> None:
    w = jnp.zeros(3)
    solution = pjp.solve(
        lambda w: pjp.equality(w**2, -jnp.ones(3)), w, solver=pjp.JointProjections(), max_steps=2
    )
    np.testing.assert_array_equal(solution.params, w)


def test_the_number_of_iterations_is_an_operand() -> None:
    x, target = normal(0, 6, 5), normal(1, 6)
    traces = []

    @eqx.filter_jit
    def run(solver: pjp.AbstractSolver, w: Array) -> Array:
        traces.append(solver)
        return pjp.solve(lambda w: pjp.squared_error(x @ w, target), w, solver=solver, max_steps=1).stats[
            "gap"
        ]

    gaps = [float(run(pjp.JointProjections(iterations=jnp.asarray(n)), jnp.zeros(5))) for n in (1, 2, 5)]
    assert gaps[0] > gaps[1] > gaps[2] and len(traces) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iterations": 0}, "iterations: expected an integer of at least 1, given 0"),
        ({"iterations": 2.5}, "iterations: expected an integer of at least 1, given 2.5"),
        ({"metric": "full-outputs"}, "metric: JointProjections has parameters of one weight, given "),
        ({"form": "expanded"}, "form: JointProjections runs in the form"),
    ],
)
def test_errors(settings: dict, message: str) -> None:
    with pytest.raises(pjp.ArgumentError, match=message):
        pjp.JointProjections(**settings)
