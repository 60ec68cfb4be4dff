"""A step on a mesh of eight devices gives what it gives on one."""

from contextlib import nullcontext
from functools import cache
from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from pjax_prim.sharding import Plan, make_mesh, make_plan

import pjax_prim as pjp
import pjax_prim.primitives as pp
from tests.solvers.problems import OTHER_SOLVERS, Problem
from tests.solvers.problems import SOLVERS as ALL_SOLVERS

from .problems import MLP, OTHERS

MEMORIES: dict[str, pjp.AbstractSolver] = {
    "anderson": pjp.Anderson(pjp.CyclicProjections(), memory=3),
    "anderson_expanded": pjp.Anderson(pjp.DouglasRachford(), memory=3),
    "restarted": pjp.Restarted(pjp.AlternatingProjections()),
    "adaptive_metric": pjp.AdaptiveMetric(pjp.AlternatingProjections(), rate=0.02),
    "nested": pjp.Anderson(pjp.Restarted(pjp.CyclicProjections()), memory=3),
}
"""Solvers that remember earlier steps."""
SOLVERS = {name: solver for name, solver in ALL_SOLVERS.items() if name not in OTHER_SOLVERS} | MEMORIES
STEPS = 6  # so many until labels reach the first layer
TOLERANCE = {"float64": 1e-10, "float32": 1e-6}
LARGE = ("rnn", "reductions", "movements", "tied")
"""Long to compile: only if asked for."""
FIRST_SETTINGS = (
    "douglas_rachford_0.5", "alternating_projections_compressed", "nested",
)  # fmt: skip
"""One of each kind of step; the others are run if asked for."""


def arguments(problem: Problem, dtype: str) -> tuple[Any, ...]:
    def cast(x: Any) -> Any:
        return x.astype(dtype) if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(cast, problem.arguments)


def plan_of(problem: Problem, solver: str, mesh: str | None, dtype: str = "float64") -> Plan:
    """On all devices, or on one if `mesh` is None."""
    devices = make_mesh("data=1", jax.devices()[:1]) if mesh is None else make_mesh(mesh)
    return make_plan(problem.fn, *arguments(problem, dtype), solver=SOLVERS[solver], mesh=devices)


def states(plan: Plan, problem: Problem, dtype: str, start: Any = None) -> list[Any]:
    """The first state, the one after `STEPS` steps, and the gaps of the last one."""
    params, *args = plan.shard(*arguments(problem, dtype))
    data = jax.tree.leaves(args)
    trained = jax.tree.leaves(eqx.filter(params, eqx.is_inexact_array))
    first = plan.init(trained, data) if start is None else jax.device_put(start, plan.state)
    state = jax.tree.map(jnp.copy, first)  # a step takes its argument's memory
    for _ in range(STEPS):
        state, gaps = plan.step(state, data)
    return [first, state, gaps]


@cache
def alone(problem: Problem, solver: str, dtype: str) -> list[Any]:
    return states(plan_of(problem, solver, None, dtype), problem, dtype)


def check(problem: Problem, solver: str, mesh: str, dtype: str = "float64") -> Plan:
    plan = plan_of(problem, solver, mesh, dtype)
    first, *expected = alone(problem, solver, dtype)
    _, *found = states(plan, problem, dtype, start=first)
    chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
    before, after = map(plan.solver.point, (first, expected[0]))
    moved = [np.any(after[x][0] != before[x][0]) for x in plan.graph.parameters if x is not None]
    assert all(moved) if problem is MLP else any(moved)  # steps hold some parameters
    for new, old in zip(*map(jax.tree.leaves, (found[0], expected[0])), strict=True):
        assert old.dtype in (dtype, "float32", "int32")  # factors and numbers of steps
        np.testing.assert_allclose(new, old, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    # The gap of a compressed form is the root of a difference of squares.
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=TOLERANCE[dtype] ** 0.5)
    for array, sharding in zip(*map(jax.tree.leaves, (found[0], plan.state)), strict=True):
        assert array.sharding.is_equivalent_to(sharding, array.ndim)
    return plan


@pytest.mark.parametrize(
    "solver", [pytest.param(x, marks=() if x in FIRST_SETTINGS else pytest.mark.slow) for x in SOLVERS]
)
def test_every_solver_and_form(solver: str) -> None:
    plan = check(MLP, solver, "data=2,model=2,stage=2")
    divided = [axis for sharding in jax.tree.leaves(plan.placement.state) for axis in sharding.spec]
    assert {"data", "model"} <= {*divided}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("mesh", ["data=8", "data=4,model=2", "data=2,model=4"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_on_every_mesh(solver: str, mesh: str, dtype: str) -> None:
    check(MLP, solver, mesh, dtype)


@pytest.mark.parametrize(
    "problem",
    [pytest.param(x, id=str(x), marks=pytest.mark.slow if x.name in LARGE else ()) for x in OTHERS],
)
def test_every_problem(problem: Problem) -> None:
    check(problem, "alternating_projections_compressed", "data=2,model=2,stage=2")


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["cyclic_projections_expanded", "douglas_rachford_0.3"])
@pytest.mark.parametrize("problem", OTHERS, ids=str)
def test_every_problem_expanded(problem: Problem, solver: str) -> None:
    check(problem, solver, "data=4,model=2")


@pytest.mark.parametrize(
    ("kind", "axes", "is_set"),
    [
        ("auto", "data=4,model=2", False),
        ("explicit", "data=4,model=2", False),
        pytest.param("explicit", "data=2,fsdp=2,model=2", True, marks=pytest.mark.slow),
    ],
)
def test_solve_takes_a_placement(kind: str, axes: str, is_set: bool) -> None:
    """Also where the user has set an explicit mesh of these devices (`jax.set_mesh`)."""
    solver = SOLVERS["alternating_projections_compressed"]
    mesh = make_mesh(f"{axes},axis_type={kind}")
    first, state, _ = alone(MLP, "alternating_projections_compressed", "float64")
    whole = pjp.solve(MLP.fn, *MLP.arguments, solver=solver, max_steps=1, state=state)
    with jax.set_mesh(mesh) if is_set else nullcontext():
        plan = make_plan(MLP.fn, *MLP.arguments, solver=solver, mesh=mesh)
        given: Any = MLP.arguments
        if kind == "explicit":  # as a user's own code on such a mesh makes them
            given = (given[0], *jax.device_put(given[1:], NamedSharding(mesh, P("data"))))
            assert "data" in str(jax.typeof(given[1]))
        arguments = plan.shard(*given)
        solution = pjp.solve(MLP.fn, *arguments, solver=solver, max_steps=STEPS, placement=plan.placement)
        again = pjp.solve(
            MLP.fn, *arguments, solver=solver, max_steps=1, state=solution.state, placement=plan.placement
        )
        stepped = states(plan, MLP, "float64", start=first)[1] if is_set else solution.state
    for found in (solution.state, stepped):
        for new, old in zip(*map(jax.tree.leaves, (found, state)), strict=True):
            np.testing.assert_allclose(new, old, rtol=0, atol=1e-10)
    np.testing.assert_allclose(again.stats["gap"], whole.stats["gap"], rtol=1e-9)
    for a, b in zip(jax.tree.leaves(solution.params), plan.parameters, strict=False):
        assert not isinstance(a, jax.Array) or a.sharding.is_equivalent_to(b, a.ndim)


def test_forms_without_a_place() -> None:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def loss(w: Any, x: Any) -> Any:
        return pjp.squared_error(x @ w, x)

    with pytest.raises(pjp.ArgumentError, match="placement: the consensus form has none"):
        make_plan(loss, jnp.eye(8), jnp.ones((8, 8)), solver=pjp.ExtrapolatedProjections(), mesh=mesh)


def test_means_of_reflected_copies_go_where_they_are_asked_for() -> None:
    """XLA divides an addition to some elements of a sum wrongly, where features are divided after it."""
    mesh = make_mesh("data=4,model=2")
    a, b = (jax.random.normal(jax.random.key(i), (1, 4, 16, 8)) for i in range(2))
    z = a[..., 0]

    def mean(a: Any, b: Any, z: Any) -> Any:
        return pp.displace_dot_p.bind(a, b, z)[6].reshape(8, 2, 8).swapaxes(1, 2)

    placed = (
        jax.device_put(x, NamedSharding(mesh, P(None, "model", "data", *[None] * (x.ndim - 3))))
        for x in (a, b, z)
    )
    found = jax.jit(mean, out_shardings=NamedSharding(mesh, P("data", "model")))(*placed)
    np.testing.assert_allclose(found, jax.jit(mean)(a, b, z), rtol=1e-12)
