"""A function with its arrays as one object, and what is compiled anew."""

import gc
import json
import weakref
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import pjax_prim as pjp
from pjax_prim import feasibility

K = jax.random.key
X, Y, W = (jax.random.normal(K(i), s) for i, s in enumerate([(6, 4), (6, 3), (4, 3)]))
LABELS = jnp.arange(6) % 3
SOLVER = pjp.AlternatingProjections()


def loss(w: Array, scale: Any = 1.0) -> Array:
    return jnp.mean(pjp.squared_error(jnp.tanh(scale * (X @ w)), Y))


def solved(fn: Callable[..., Any], *args: Any, solver: pjp.AbstractSolver = SOLVER) -> Array:
    return pjp.solve(fn, W, *args, solver=solver, max_steps=3).params


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The programs whose graphs are built."""
    jax.clear_caches()
    found: list[Any] = []
    build = feasibility.build_graph

    def record(program: Any) -> Any:
        found.append(program)
        return build(program)

    monkeypatch.setattr(feasibility, "build_graph", record)
    yield found


def test_one_program_is_built_and_compiled_once(built: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    results = []
    for scale in (1.0, 3.0, 3.0):
        captured = jnp.array(scale)
        with jax.log_compiles(len(results) > 0):
            results.append(solved(lambda w, c=captured: loss(w, c)))
    assert len(built) == 1
    assert not [r for r in caplog.records if "Finished XLA compilation of jit(_run)" in r.getMessage()]
    assert not np.allclose(results[0], results[1])
    chex.assert_trees_all_equal(results[1], results[2])
    chex.assert_trees_all_close(results[1], solved(lambda w: loss(w, jnp.array(3.0))))


def test_bound_methods_and_closures_that_change(built: list[Any]) -> None:
    class Problem:
        scale = jnp.array(1.0)

        def loss(self, w: Array) -> Array:
            return loss(w, self.scale)

    problem = Problem()
    first = solved(problem.loss)
    problem.scale = jnp.array(2.0)
    second = solved(problem.loss)
    assert len(built) == 1
    chex.assert_trees_all_close(second, solved(lambda w: loss(w, jnp.array(2.0))))
    assert not np.allclose(first, second)


def test_numbers_of_two_types_and_other_literals(built: list[Any]) -> None:
    def fn(w: Array, k: Any) -> Array:
        return loss(w, k / 2 if isinstance(k, float) else k // 2)

    chex.assert_trees_all_close(solved(fn, 3), solved(lambda w: loss(w, 1)))
    chex.assert_trees_all_close(solved(fn, 3.0), solved(lambda w: loss(w, 1.5)))
    assert not np.allclose(solved(fn, 3), solved(fn, 3.0))


def test_arrays_of_inner_functions(built: list[Any]) -> None:
    """A jitted function keeps the arrays it closes over: others make another program."""
    results = []
    for scale in (1.0, 2.0):
        inner = jax.jit(partial(jnp.multiply, jnp.array(scale)))
        results.append(solved(lambda w, f=inner: loss(f(w))))
    assert len(built) == 2
    chex.assert_trees_all_close(results[1], solved(lambda w: loss(2.0 * w)))


def test_rules_of_authors_tell_programs_apart(built: list[Any]) -> None:
    """Extrapolated projections go back through them; equal ones made anew are the same."""

    def scaled(factor: float) -> Callable[[Array], Array]:
        function: Any = jax.custom_vjp(lambda x: x)
        function.defvjp(lambda x: (x, None), lambda _, g: (factor * g,))
        return function

    solver = pjp.ExtrapolatedProjections()
    found = []
    for factor in (1.0, 0.0, 1.0):
        function = scaled(factor)
        found.append(solved(lambda w, f=function: loss(f(w)), solver=solver) - W)
    assert not np.any(found[1]) and np.any(found[0])
    chex.assert_trees_all_equal(found[0], found[2])
    assert len(built) == 2


def test_configurations_tell_programs_apart(built: list[Any]) -> None:
    def fn(w: Array) -> Array:
        return jnp.mean(pjp.squared_error(X.astype("float32") @ w, Y.astype("float32")))

    w = W.astype("float32")
    wide = pjp.FeasibilityProblem.of(fn, w)
    with jax.enable_x64(False):
        narrow = pjp.FeasibilityProblem.of(fn, w)
        assert jax.tree.leaves(narrow.init(SOLVER))[0].dtype == jnp.float32
    assert narrow.graph is not wide.graph
    assert pjp.FeasibilityProblem.of(fn, w).graph is wide.graph


def test_no_array_is_kept(built: list[Any]) -> None:
    captured = jnp.arange(12.0).reshape(4, 3)
    gone = weakref.ref(captured)
    solved(lambda w, c=captured: loss(w + c))
    del captured
    gc.collect()
    assert gone() is None


def test_clearing_jax_clears_graphs(built: list[Any]) -> None:
    solved(loss)
    jax.clear_caches()
    solved(loss)
    assert len(built) == 2


def test_a_failure_leaves_nothing_behind(built: list[Any]) -> None:
    before = solved(loss)
    with pytest.raises(pjp.GraphError, match="not linear"):
        solved(lambda w: jnp.exp(loss(w)))
    np.testing.assert_array_equal(solved(loss), before)


@pytest.mark.parametrize(
    "solver",
    [SOLVER, pjp.DouglasRachford(), pjp.CyclicProjections(), pjp.Anderson(SOLVER)],
    ids=lambda s: type(s).__name__,
)
def test_step_by_step_is_solve(solver: pjp.AbstractSolver) -> None:
    problem = pjp.FeasibilityProblem.of(loss, W)
    state = problem.init(solver)
    for _ in range(3):
        state, gaps = problem.step(solver, state)
    solution = pjp.solve(loss, W, solver=solver, max_steps=3)
    chex.assert_trees_all_close(problem.parameters(solver, state), solution.params, rtol=1e-9)
    chex.assert_trees_all_close(gaps, dict(solution.stats["gap_per_node"]), rtol=1e-6, atol=1e-12)


def test_gaps_of_the_forward_pass_and_jit() -> None:
    problem = pjp.FeasibilityProblem.of(loss, W)
    expected = jnp.linalg.norm(jnp.tanh(X @ W) - Y) / 2
    np.testing.assert_allclose(problem.gaps()["loss_0"], expected, rtol=1e-6)
    np.testing.assert_allclose(pjp.gap(loss)(W), expected, rtol=1e-6)
    jitted = eqx.filter_jit(lambda problem: problem.gaps()["loss_0"])(problem)
    np.testing.assert_allclose(jitted, expected, rtol=1e-6)


def test_auxiliary_output() -> None:
    fn = lambda w: (loss(w), {"logits": X @ w, "name": "net"})  # noqa: E731
    solution = pjp.solve(fn, W, solver=SOLVER, max_steps=3, has_aux=True)
    chex.assert_trees_all_equal(solution.params, solved(loss))
    with pytest.raises(pjp.ArgumentError, match="a pair of value and auxiliary output"):
        pjp.solve(loss, W, solver=SOLVER, max_steps=3, has_aux=True)


def test_a_bug_report(tmp_path: Path) -> None:
    file = tmp_path / "report.zip"
    params = {"w": W.astype("bfloat16")}
    pjp.FeasibilityProblem.of(lambda p, key: loss(p["w"].astype("float64")), params, K(0)).save(file)
    with zipfile.ZipFile(file) as archive:
        assert "tanh" in archive.read("program.txt").decode()
        assert "loss_0" in archive.read("graph.txt").decode()
        assert json.loads(archive.read("versions.json"))["jax"] == jax.__version__
        with archive.open("arrays.npz") as arrays:
            assert np.load(arrays)["parameters_0"].shape == (4, 3)


def test_a_placement_of_another_problem() -> None:
    from pjax_prim.sharding import make_mesh, make_plan, MeshConfig  # noqa: I001

    mesh = make_mesh(MeshConfig(data=2), jax.devices()[:2])
    plan = make_plan(
        lambda w, x: jnp.mean(pjp.squared_error(x @ w, 0 * x[:, :3])), W, X, solver=SOLVER, mesh=mesh
    )
    with pytest.raises(pjp.ArgumentError, match="placement: expected that of a plan for this function"):
        pjp.solve(loss, W, solver=SOLVER, max_steps=1, placement=plan.placement)


def test_gaps_of_nodes_are_a_mapping_in_every_form() -> None:
    """By name, with the axes that `jax.vmap` adds; a program that is exported gives them, too."""

    def run(w: Any) -> Any:
        def fn(w: Any) -> Any:
            return pjp.squared_error(jax.nn.relu(jnp.ones((2, 3)) @ w), jnp.ones((2, 4)))

        return pjp.solve(fn, w, solver=pjp.AlternatingProjections(), max_steps=2).stats["gap_per_node"]

    w = jax.random.normal(jax.random.key(0), (3, 4))
    one, several = run(w), jax.vmap(run)(jnp.stack([2 * w, w]))
    program = jax.export.deserialize(jax.export.export(jax.jit(run))(w).serialize())
    exported = program.call(w)
    assert list(one) == list(several) == list(exported) and len(one) > 2
    for name, gap in one.items():
        np.testing.assert_allclose(several[name], [run(2 * w)[name], gap], rtol=1e-6)
        np.testing.assert_allclose(exported[name], gap, rtol=1e-6)
    assert repr(one) == repr(dict(one))
    with pytest.raises(KeyError, match="nowhere"):
        one["nowhere"]
