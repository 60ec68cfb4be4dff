"""What `solve` promises of every solver: transformations, warm start, stopping, dtypes."""

import re
from collections.abc import Callable
from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

import pjax_prim as pjp
from pjax_prim.problem import AbstractProblem, Form, State

from .problems import LABELS, SMALL, SOLVERS, linear, mlp, normal

VARIANTS = ("douglas_rachford_0.3", "difference_map_0.5")
LIKE_OTHERS = ("difference_map_1.0", "alternating_projections_expanded", "cyclic_projections_expanded")
"""Their iterates are those of another solver (test_fixtures.py) or form (test_every_problem.py)."""
EVERY_SOLVER = pytest.mark.parametrize(
    "solver",
    [
        pytest.param(x, id=name, marks=pytest.mark.slow if name in LIKE_OTHERS else ())
        for name, x in SOLVERS.items()
        if name not in VARIANTS
    ],
)
TWO_SOLVERS = pytest.mark.parametrize(
    "solver", [pjp.AlternatingProjections(), pjp.DouglasRachford()], ids=["ap", "dr"]
)
PARAMS, X, TARGET = SMALL.arguments


def solved() -> tuple[Any, ...]:
    """The small problem with the target that its parameters give already."""
    hidden = jax.nn.relu(X @ PARAMS["w"] + PARAMS["b"])
    return PARAMS, X, hidden @ PARAMS["out"]


@EVERY_SOLVER
def test_starts_and_warm_starts(solver: pjp.AbstractSolver) -> None:
    def run(steps: int, **options: Any) -> pjp.Solution:
        return SMALL.solve(solver, steps, tol=1e-6, **options)

    params, x, target = solved()
    start = run(0)
    assert start.result == pjp.RESULTS.max_steps_reached
    assert start.stats["gap"] == np.inf and int(start.stats["num_steps"]) == 0
    chex.assert_trees_all_equal(start.params, params)

    # Five steps and five more are ten.
    whole, half = run(10), run(5)
    rest = run(5, state=half.state)
    chex.assert_trees_all_close((rest.params, rest.state), (whole.params, whole.state), rtol=0, atol=1e-12)
    assert int(rest.stats["num_steps"]) == 5
    np.testing.assert_allclose(rest.stats["gap"], whole.stats["gap"], rtol=1e-8)

    # A solved problem is a fixed point, and recognised as solved.
    end = pjp.solve(SMALL.fn, params, x, target, solver=solver, max_steps=50, tol=1e-6)
    assert end.result == pjp.RESULTS.converged
    assert end.message == pjp.RESULTS[pjp.RESULTS.converged]
    assert int(end.stats["num_steps"]) == 1
    first, last = (solver.point(x.state) for x in (start, end))  # wrappers remember more
    chex.assert_trees_all_close((end.params, last), (params, first), rtol=0, atol=1e-12)


@TWO_SOLVERS
def test_tolerance_stops_early(solver: pjp.AbstractSolver) -> None:
    solution = SMALL.solve(solver, 5000, tol=0.5)
    steps = int(solution.stats["num_steps"])
    assert solution.result == pjp.RESULTS.converged
    assert 1 < steps < 5000
    assert solution.stats["gap"] <= 0.5
    before = SMALL.solve(solver, steps - 1, tol=0.5)
    assert before.result == pjp.RESULTS.max_steps_reached
    assert before.stats["gap"] > 0.5


@pytest.mark.parametrize("readout", ["shadow", "governing"])
def test_readout(readout: str) -> None:
    solver = pjp.DouglasRachford()
    solution = SMALL.solve(solver, 3, readout=readout)
    variables = {
        name.strip("[']"): arrays[0]
        for name, arrays in zip(solution.node_names, solution.state, strict=True)
        if name.startswith("[")
    }
    if readout == "governing":
        chex.assert_trees_all_equal(solution.params, variables)
    else:
        moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), solution.params, variables)
        assert max(moved.values()) > 1e-6


class TestTransformations(chex.TestCase):
    """`solve` with and without jit, on one device and on every device."""

    @chex.variants(with_jit=True, without_jit=True, with_device=True, without_device=True)
    def test_solve(self) -> None:
        def run(params: Any, x: Array, target: Array) -> tuple[Any, ...]:
            solution = pjp.solve(
                SMALL.fn, params, x, target, solver=pjp.AlternatingProjections(), max_steps=7
            )
            return solution.params, solution.state, solution.stats

        result = self.variant(run)(PARAMS, X, TARGET)  # type: ignore[attr-defined]
        eager = SMALL.solve(pjp.AlternatingProjections(), 7)
        chex.assert_trees_all_close(result, (eager.params, eager.state, eager.stats), rtol=1e-8, atol=1e-10)


def test_inside_jit_is_the_same() -> None:
    solver = pjp.DouglasRachford()

    @eqx.filter_jit
    def run(params: Any, x: Array, target: Array) -> pjp.Solution:
        return pjp.solve(SMALL.fn, params, x, target, solver=solver, max_steps=7)

    inside, eager = run(*SMALL.arguments), SMALL.solve(solver, 7)
    assert inside.result == eager.result
    chex.assert_trees_all_close(
        (inside.params, inside.state, inside.stats),
        (eager.params, eager.state, eager.stats),
        rtol=1e-8,
        atol=1e-10,
    )


def test_a_function_inside_jit_may_close_over_tracers() -> None:
    @jax.jit
    def run(params: Any, x: Array, target: Array) -> Any:
        def fn(params: Any) -> Array:
            return SMALL.fn(params, x, target)

        return pjp.solve(fn, params, solver=pjp.AlternatingProjections(), max_steps=7).params

    chex.assert_trees_all_close(
        run(*SMALL.arguments), SMALL.solve(pjp.AlternatingProjections(), 7).params, atol=1e-10
    )


@TWO_SOLVERS
def test_vmap_over_starts_is_a_loop(solver: pjp.AbstractSolver) -> None:
    x = normal(1, 5, 4)
    keys = jax.random.split(jax.random.key(0), 3)

    def make(key: Array) -> eqx.nn.Linear:
        return eqx.nn.Linear(4, 3, key=key)

    def run(model: eqx.nn.Linear) -> tuple[Any, Array, Array]:
        solution = pjp.solve(linear, model, x, LABELS, solver=solver, max_steps=20, tol=0.5)
        return eqx.filter(solution.params, eqx.is_array), solution.stats["num_steps"], solution.stats["gap"]

    together = eqx.filter_vmap(run)(eqx.filter_vmap(make)(keys))
    for i, key in enumerate(keys):
        alone = run(make(key))
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=i: x[i], together), alone, atol=1e-10)


@TWO_SOLVERS
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_low_precision(solver: pjp.AbstractSolver, dtype: str) -> None:
    low = jax.tree.map(lambda x: x.astype(dtype), SMALL.arguments)
    solution = pjp.solve(SMALL.fn, *low, solver=solver, max_steps=10)
    chex.assert_trees_all_equal_shapes_and_dtypes(solution.params, low[0])
    assert {x.dtype.name for x in jax.tree.leaves(solution.state)} == {"float32"}
    chex.assert_tree_all_finite(solution.state)
    exact = SMALL.solve(solver, 10)
    widened = jax.tree.map(lambda x: x.astype(jnp.float64), solution.params)
    chex.assert_trees_all_close(widened, exact.params, atol={"float32": 1e-5, "bfloat16": 0.1}[dtype])


def test_the_same_function_has_a_gradient() -> None:
    model = eqx.nn.MLP(4, 3, 6, 1, key=jax.random.key(0))
    x = normal(1, 5, 4)

    def ordinary(model: eqx.nn.MLP, x: Array, labels: Array) -> Array:
        logits = jax.vmap(model)(x)
        chosen = jnp.take_along_axis(logits, labels[:, None], 1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(logits, -1) - chosen)

    found, expected = (
        eqx.filter_jit(eqx.filter_value_and_grad(fn))(model, x, LABELS) for fn in (mlp, ordinary)
    )
    chex.assert_trees_all_close(jax.tree.leaves(found), jax.tree.leaves(expected), rtol=1e-12, atol=1e-12)


class Doubling(pjp.AbstractSolver):
    """Multiplies the state by `factor`, to overflow at a known step; stands for a user's own solver."""

    factor: float = eqx.field(static=True, default=2.0)
    form: Form = eqx.field(static=True, default="expanded")
    forms = ("expanded",)
    two_sets = True

    def step(self, problem: AbstractProblem, state: State) -> tuple[State, Float[Array, " nodes"]]:
        new = jax.tree.map(lambda x: self.factor * x, state)
        return new, problem.squared_distances(new, state)  # type: ignore[attr-defined]


def test_overflow_returns_the_last_finite_step() -> None:
    def run(steps: int) -> pjp.Solution:
        return SMALL.solve(Doubling(factor=1e40), steps, readout="governing")

    # Squared distances of 1e160 overflow float64; 1e120 do not.
    last, overflowed = run(3), run(10)
    assert last.result == pjp.RESULTS.max_steps_reached
    assert int(last.stats["first_nonfinite"]) == -1
    assert overflowed.result == pjp.RESULTS.nonfinite
    assert int(overflowed.stats["num_steps"]) == 3
    chex.assert_tree_all_finite((overflowed.params, overflowed.state))
    chex.assert_trees_all_equal((overflowed.params, overflowed.state), (last.params, last.state))
    first = overflowed.node_names[int(overflowed.stats["first_nonfinite"])]
    assert overflowed.message.endswith(f"First at node {first!r}.")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@TWO_SOLVERS
def test_input_that_is_not_finite(solver: pjp.AbstractSolver, bad: float) -> None:
    solution = pjp.solve(SMALL.fn, PARAMS, X.at[1, 2].set(bad), TARGET, solver=solver, max_steps=10)
    assert solution.result == pjp.RESULTS.nonfinite
    assert int(solution.stats["num_steps"]) == 0
    node = solution.node_names[int(solution.stats["first_nonfinite"])]
    assert node in ("linear_0", "sum_relu_0")  # in the compressed form `linear_0` does not hold the data
    assert solution.message == f"{pjp.RESULTS[pjp.RESULTS.nonfinite]} First at node {node!r}."
    chex.assert_trees_all_equal(solution.params, PARAMS)


@TWO_SOLVERS
def test_parameter_that_is_not_finite(solver: pjp.AbstractSolver) -> None:
    params = {**PARAMS, "b": PARAMS["b"].at[0].set(np.nan)}
    solution = pjp.solve(SMALL.fn, params, X, TARGET, solver=solver, max_steps=10)
    assert solution.result == pjp.RESULTS.nonfinite
    assert "node \"['b']\"" in solution.message
    chex.assert_trees_all_equal(solution.params, params)


@TWO_SOLVERS
def test_target_that_is_not_finite(solver: pjp.AbstractSolver) -> None:
    """The start is finite, the first projection of the loss is not."""
    target = TARGET.at[0, 0].set(np.inf)
    solution = pjp.solve(SMALL.fn, PARAMS, X, target, solver=solver, max_steps=10)
    assert solution.result == pjp.RESULTS.nonfinite
    assert int(solution.stats["num_steps"]) == 0
    chex.assert_tree_all_finite((solution.params, solution.state))
    chex.assert_trees_all_equal(solution.params, PARAMS)


def test_nonfinite_inside_vmap() -> None:
    """One bad start does not stop the others."""
    starts = jax.tree.map(lambda x: jnp.stack([x, x]), PARAMS)
    starts["b"] = starts["b"].at[0, 0].set(np.nan)

    def run(params: Any) -> tuple[Any, Array, Array]:
        solution = pjp.solve(SMALL.fn, params, X, TARGET, solver=pjp.AlternatingProjections(), max_steps=5)
        return solution.params, solution.stats["first_nonfinite"], solution.stats["num_steps"]

    params, first, steps = jax.vmap(run)(starts)
    assert first[0] >= 0 and first[1] == -1
    np.testing.assert_array_equal(steps, [0, 5])
    chex.assert_trees_all_close(
        jax.tree.map(lambda x: x[1], params),
        SMALL.solve(pjp.AlternatingProjections(), 5).params,
        atol=1e-12,
    )


def test_parameters_without_a_loss_stay() -> None:
    params = {**PARAMS, "spare": jnp.ones(3)}
    with pytest.warns(pjp.UnusedParameterWarning, match="'spare'"):
        solution = pjp.solve(SMALL.fn, params, X, TARGET, solver=pjp.AlternatingProjections(), max_steps=2)
    np.testing.assert_array_equal(solution.params["spare"], params["spare"])


def test_models_keep_what_is_not_trained() -> None:
    class Model(eqx.Module):
        linear: eqx.nn.Linear
        permutation: Array
        activation: Callable[[Array], Array]
        width: int

        def __call__(self, x: Array) -> Array:
            return self.activation(self.linear(x[self.permutation]))

    def fn(model: Model, x: Array, target: Array) -> Array:
        return pjp.squared_error(jax.vmap(model)(x), target)

    linear = eqx.nn.Linear(3, 2, key=jax.random.key(0))
    model = Model(linear, jnp.array([2, 0, 1]), jax.nn.relu, 2)
    new = pjp.solve(fn, model, X, TARGET, solver=pjp.AlternatingProjections(), max_steps=3).params
    assert new.activation is jax.nn.relu and new.width == 2
    np.testing.assert_array_equal(new.permutation, model.permutation)
    assert not np.array_equal(new.linear.weight, linear.weight)
    assert new(X[0]).shape == (2,)


@pytest.mark.parametrize(
    "solver",
    [
        pjp.AlternatingProjections(),
        pytest.param(pjp.CyclicProjections(), marks=pytest.mark.slow),
        pjp.DouglasRachford(),
    ],
)
def test_half_precision_functions_are_solved_in_float32(solver: pjp.AbstractSolver) -> None:
    """Their projections move far less than half precisions resolve; only products take rounded operands."""
    keys = jax.random.split(jax.random.key(0), 3)
    model = eqx.nn.MLP(12, 4, 16, 1, key=keys[0])
    x, labels = jax.random.uniform(keys[1], (32, 12)), jax.random.randint(keys[2], (32,), 0, 4)

    def fn(model: Any, x: Any, labels: Any) -> Any:
        return pjp.cross_entropy(jax.vmap(model)(x), labels)

    def run(dtype: str) -> pjp.Solution:
        cast = jax.tree.map(lambda a: a.astype(dtype) if eqx.is_inexact_array(a) else a, model)
        return pjp.solve(fn, cast, x.astype(dtype), labels, solver=solver, max_steps=50)

    single, half = run("float32"), run("bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(half.state)} == {"float32"}
    trained = jax.tree.leaves(eqx.filter(half.params, eqx.is_inexact_array))
    assert {leaf.dtype.name for leaf in trained} == {"bfloat16"}
    np.testing.assert_allclose(half.stats["gap"], single.stats["gap"], rtol=0.01)


def scopes(run: Callable[..., Any]) -> list[str]:
    """Of every operation of a compiled function the names that profiles show."""
    return re.findall(r'op_name="([^"]*)"', jax.jit(run).lower(*SMALL.arguments).compile().as_text())


@pytest.mark.parametrize(
    "solver",
    [
        pjp.AlternatingProjections(),
        pjp.AlternatingProjections(form="expanded"),
        pjp.DouglasRachford(),
        pjp.ReflectReflectRelax(),
    ],
    ids=["compressed", "expanded", "halves", "divided"],
)
def test_operations_carry_the_names_of_nodes_and_primitives(solver: pjp.AbstractSolver) -> None:
    found = scopes(lambda *x: pjp.solve(SMALL.fn, *x, solver=solver, max_steps=2).params)
    for node in ("linear_0", "linear_1", "sum_relu_0"):
        assert any(f"/{node}/pjax_" in name for name in found), node
