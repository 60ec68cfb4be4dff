"""Every solver on every problem: finite, the gap falls, both forms give the same iterates."""

from typing import Any

import chex
import equinox as eqx
import jax
import numpy as np
import pytest
from jaxtyping import Array

import pjax_prim as pjp

from .problems import ONE_FORM, OTHER_SOLVERS, PROBLEMS, SOLVERS, TWO_FORMS, Problem, every_solver, read

EVERY_PROBLEM = pytest.mark.parametrize("problem", PROBLEMS, ids=str)
SECOND_SETTINGS = ("douglas_rachford_0.3", "difference_map_0.5")
"""Left to the fixtures, unless asked for."""
OF_EVERY_SOLVER = "tied"
"""The problem that every solver gets: products, sums and an inserted identity. The others get one solver of
each table, unless asked for."""
LARGE = ("nested", "stacked", "registers", "strided", "steps", "eqx_mlp", "shared")
"""Long to compile: in both forms only if asked for."""
REDUCES_GAP = ("douglas_rachford_0.5", "douglas_rachford_0.3")


def arrays(tree: Any) -> list[Array]:
    return jax.tree.leaves(eqx.filter(tree, eqx.is_array_like))


def check_solution(problem: Problem, solution: pjp.Solution, steps: int) -> None:
    chex.assert_tree_all_finite((solution.state, solution.stats))
    chex.assert_trees_all_equal_structs(solution.params, problem.arguments[0])
    chex.assert_trees_all_equal_shapes_and_dtypes(arrays(solution.params), arrays(problem.arguments[0]))
    assert solution.result == pjp.RESULTS.max_steps_reached
    assert int(solution.stats["num_steps"]) == steps
    assert set(solution.stats["gap_per_node"]) == set(solution.node_names)
    gaps = np.array(list(solution.stats["gap_per_node"].values()))
    np.testing.assert_allclose(np.sqrt(np.sum(gaps**2)), solution.stats["gap"], rtol=1e-12)


@pytest.mark.parametrize(
    ("problem", "solver"),
    every_solver(
        [(problem,) for problem in PROBLEMS],
        ONE_FORM | OTHER_SOLVERS,
        lambda case, solver: (
            solver in SECOND_SETTINGS
            or (solver != "douglas_rachford_0.5" and case[0].name != OF_EVERY_SOLVER)
        ),
    ),
)
def test_one_form(problem: Problem, solver: str) -> None:
    first, last = (problem.solve((ONE_FORM | OTHER_SOLVERS)[solver], steps) for steps in (1, 40))
    check_solution(problem, first, 1)
    check_solution(problem, last, 40)
    if solver in REDUCES_GAP:
        assert last.stats["gap"] < 0.9 * first.stats["gap"]


@pytest.mark.parametrize(
    ("problem", "solver"),
    every_solver(
        [(problem,) for problem in PROBLEMS],
        TWO_FORMS,
        lambda case, solver: (
            case[0].name in LARGE or (case[0].name != OF_EVERY_SOLVER and solver == "cyclic_projections")
        ),
    ),
)
def test_both_forms(problem: Problem, solver: str) -> None:
    kinds = {form: TWO_FORMS[solver](form=form) for form in ("compressed", "expanded")}
    gaps = []
    for steps in (1, 10, 40):
        compressed, expanded = (problem.solve(kind, steps) for kind in kinds.values())
        check_solution(problem, compressed, steps)
        check_solution(problem, expanded, steps)
        chex.assert_trees_all_close(arrays(compressed.params), arrays(expanded.params), rtol=0, atol=1e-10)
        # The gap of a compressed form is the root of a difference of squares.
        chex.assert_trees_all_close(compressed.stats, expanded.stats, rtol=1e-10, atol=1e-7)
        for readout in ("shadow", "governing"):
            parameters = [
                read(problem, kind, solution.state, readout)
                for kind, solution in zip(kinds.values(), (compressed, expanded), strict=True)
            ]
            chex.assert_trees_all_close(*parameters, rtol=0, atol=1e-10)
            if readout == "shadow":
                chex.assert_trees_all_close(arrays(compressed.params), parameters[0], rtol=0, atol=1e-14)
        gaps.append(compressed.stats["gap"])
    if solver == "alternating_projections":
        # Not from the first step on: what the labels ask for takes some steps to spread.
        last = problem.solve(kinds["compressed"], 400)
        assert last.stats["gap"] < 0.9 * max(gaps)


def test_every_solver_is_in_the_table() -> None:
    public = {x for x in vars(pjp).values() if isinstance(x, type) and issubclass(x, pjp.AbstractSolver)}
    # Networks of threshold neurons alone: test_threshold.py.
    others = {pjp.AbstractSolver, pjp.ReflectReflectRelax}
    assert public - others == {type(solver) for solver in SOLVERS.values()}


@EVERY_PROBLEM
def test_identities(problem: Problem) -> None:
    graph = pjp.constraint_graph(problem.fn)(*problem.arguments)
    assert graph.identities == problem.identities
    assert f"{problem.identities} identities inserted" in str(graph)
