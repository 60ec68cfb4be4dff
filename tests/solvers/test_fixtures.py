"""Trajectories computed outside the project: parameters and changes, to 1e-10 in float64."""

from typing import Any

import chex
import jax
import numpy as np
import pytest

import pjax_prim as pjp
from pjax_prim.problem.placement import State

from .problems import FIXTURE_PROBLEMS, ONE_FORM, TWO_FORMS, Problem, every_solver, fixtures, read

TOLERANCE = 1e-10
LARGE = ("mlp_deep", "cnn_pool")
"""Long to compile: with the first solver alone, unless asked for."""


def is_rare(case: tuple[Any, ...], solver: str) -> bool:
    """Left to those who ask for it: another loss changes no solver, and networks change none either."""
    name, loss, _ = case
    if name in LARGE or loss == "margin":
        return solver != "douglas_rachford_0.5" or name == "mlp_deep"
    return solver != "douglas_rachford_0.5" and name != "mlp_chain"


def expected(key: str, problem: Problem) -> dict[str, np.ndarray]:
    return {name: fixtures()[f"{key}/{name}"] for name in problem.arguments[0]}


def governing(problem: Problem, solver: pjp.AbstractSolver, state: State) -> dict:
    names = sorted(problem.arguments[0])  # as JAX orders the keys of a dictionary
    return dict(zip(names, read(problem, solver, state, "governing"), strict=True))


def mean_squared_step(states: list[State]) -> float:
    """The mean over steps of the mean over arrays of the mean squared change.

    The fixtures count one array more, which never changes: the data's own variable.
    """
    stacked = [np.stack(arrays) for arrays in zip(*map(jax.tree.leaves, states), strict=True)]
    changes = [np.square(np.diff(array, axis=0)).reshape(len(states) - 1, -1).mean(1) for array in stacked]
    return float(np.mean(np.sum(changes, 0) / (len(changes) + 1)))


def check(key: str, problem: Problem, solver: pjp.AbstractSolver) -> list[pjp.Solution]:
    solutions = [problem.solve(solver, steps) for steps in range(11)]
    for steps in (1, 10):
        solution = solutions[steps]
        assert int(solution.stats["num_steps"]) == steps
        chex.assert_trees_all_close(
            governing(problem, solver, solution.state),
            expected(f"{key}/{steps}", problem),
            rtol=0,
            atol=TOLERANCE,
        )
        if solver.form == "expanded":
            np.testing.assert_allclose(
                mean_squared_step([x.state for x in solutions[: steps + 1]]),
                fixtures()[f"{key}/{steps}/mean_squared_step"],
                rtol=1e-9,
            )
    return solutions


@pytest.mark.parametrize(
    ("name", "loss", "problem", "solver"),
    every_solver(FIXTURE_PROBLEMS, ONE_FORM, is_rare),
)
def test_trajectory(name: str, loss: str, problem: Problem, solver: str) -> None:
    check(f"{name}/{loss}/{solver}", problem, ONE_FORM[solver])


@pytest.mark.parametrize(
    ("name", "loss", "problem", "solver"),
    every_solver(
        FIXTURE_PROBLEMS,
        TWO_FORMS,
        # The maxima of `cnn_pool` are in both forms in test_every_problem.py, its convolutions in `cnn_flat`.
        lambda case, solver: (
            case[0] == "cnn_pool"
            or case[1] == "margin"
            or (solver == "cyclic_projections" and case[0] != "mlp_chain")
            or case[0] == "mlp_skip"
        ),
    ),
)
def test_trajectory_in_both_forms(name: str, loss: str, problem: Problem, solver: str) -> None:
    kind = TWO_FORMS[solver]
    expanded, compressed = (
        check(f"{name}/{loss}/{solver}", problem, kind(form=form)) for form in ("expanded", "compressed")
    )
    for a, b in zip(expanded, compressed, strict=True):
        assert_same_iterate(a, b)


def assert_same_iterate(a: pjp.Solution, b: pjp.Solution) -> None:
    """Two forms agree in parameters, gaps and change."""
    chex.assert_trees_all_close(a.params, b.params, rtol=0, atol=TOLERANCE)
    # A gap is the root of a difference of squares: 1e-10 of it squared is what rounding leaves.
    chex.assert_trees_all_close(a.stats, b.stats, rtol=1e-9, atol=1e-7)


def test_every_trajectory_in_the_file_is_tested() -> None:
    of_networks = {key.split("/")[0] + "/" + key.split("/")[1] for key in fixtures()}
    losses = {key for key in of_networks if key.split("/")[1] in ("cross_entropy", "margin")}
    assert losses == {f"{name}/{loss}" for name, loss, _ in FIXTURE_PROBLEMS}
    solvers = {key.split("/")[2] for key in fixtures() if key.count("/") == 4}
    assert solvers == {*ONE_FORM, *TWO_FORMS}
