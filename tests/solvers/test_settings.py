"""Settings of solvers are operands: new values compile nothing, and `jax.vmap` takes them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import chex
import equinox as eqx
import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import pjax_prim as pjp

from .problems import SMALL


def metric(**numbers: Any) -> pjp.AbstractSolver:
    if "nodes" in numbers:
        numbers["nodes"] = (("linear*", numbers["nodes"]),)
    return pjp.AlternatingProjections(metric=pjp.Metric(**numbers))


NOT_BY_SETTINGS_ALONE: dict[str, Callable[..., pjp.AbstractSolver]] = {
    "ExtrapolatedProjections": lambda rate=0.01, **more: pjp.ExtrapolatedProjections(rate=rate, **more),
    "Metric": metric,
    "AdaptiveMetric": lambda rate: pjp.AdaptiveMetric(pjp.AlternatingProjections(), rate=rate),
    "Restarted": lambda rate: pjp.Restarted(pjp.ExtrapolatedProjections(rate=rate)),
    "Anderson": lambda relaxation: pjp.Anderson(pjp.DouglasRachford(relaxation=relaxation)),
}


def make(solver: str, **settings: Any) -> pjp.AbstractSolver:
    """A solver of the package by its name, with some settings."""
    kind = NOT_BY_SETTINGS_ALONE[solver] if solver in NOT_BY_SETTINGS_ALONE else getattr(pjp, solver)
    found: pjp.AbstractSolver = kind(**settings)
    return found


@dataclass(frozen=True)
class Row:
    """A setting of a solver, three values of it, and one that is not allowed."""

    solver: str
    setting: str
    values: tuple[float, float, float]
    wrong: float

    def __str__(self) -> str:
        return f"{self.solver}-{self.setting}"

    def make(self, value: Any) -> pjp.AbstractSolver:
        return make(self.solver, **{self.setting: value})


ROWS = (
    Row("DouglasRachford", "relaxation", (0.5, 0.3, 1.0), 1.5),
    Row("DifferenceMap", "beta", (1.0, 0.5, 1.7), 0.0),
    Row("ExtrapolatedProjections", "rate", (0.01, 0.02, 0.005), -1.0),
    Row("ExtrapolatedProjections", "lam", (0.1, 0.2, 1e-5), 0.0),
    Row("ExtrapolatedProjections", "weight", (100.0, 10.0, 1.0), -1.0),
    Row("Metric", "weights", (2.0, 100.0, 0.5), 0.0),
    Row("Metric", "activations", (2.0, 3.0, 0.5), -1.0),
    Row("Metric", "outputs", (2.0, 3.0, 0.5), float("inf")),
    Row("Metric", "nodes", (2.0, 3.0, 0.5), 0.0),
    Row("ReflectReflectRelax", "beta", (0.4, 0.5, 0.3), 2.0),
    Row("ReflectReflectRelax", "gamma", (0.0, 0.01, 0.1), 1.0),
    Row("AdaptiveMetric", "rate", (0.01, 0.0, 0.1), 1.0),
    Row("Restarted", "rate", (0.01, 0.02, 0.005), 0.0),
    Row("Anderson", "relaxation", (0.5, 0.3, 1.0), float("nan")),
)


@dataclass(frozen=True)
class Settings:
    """All rows of a solver at once: each has another value, and one program serves them."""

    solver: str

    def __str__(self) -> str:
        return self.solver

    @property
    def rows(self) -> list[Row]:
        return [row for row in ROWS if row.solver == self.solver]

    def made(self, i: int) -> pjp.AbstractSolver:
        """The solver with the i-th value of each setting."""
        return make(self.solver, **{row.setting: row.values[i] for row in self.rows})

    def mapped(self) -> pjp.AbstractSolver:
        """The solver whose settings are arrays of their values."""
        return make(self.solver, **{row.setting: jnp.array(row.values) for row in self.rows})


EVERY_SOLVER = pytest.mark.parametrize(
    "settings", list(map(Settings, dict.fromkeys(row.solver for row in ROWS))), ids=str
)
EVERY_SETTING = pytest.mark.parametrize("row", ROWS, ids=str)
ONE_SETTING = pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, marks=() if str(row) == "DouglasRachford-relaxation" else pytest.mark.slow)
        for row in ROWS
    ],
    ids=str,
)
"""For what is the same for all of them: one, the others if asked for."""
KINDS: dict[str, Callable[[float], Any]] = {
    "python": float,
    "numpy float32": np.float32,
    "numpy float64": np.float64,
    "numpy array": np.asarray,
    "jax array": jnp.asarray,
    "strong jax array": lambda x: jnp.asarray(x, jnp.float32),
}

_compiled: list[str] = []


def _note(event: str, duration: float, **labels: Any) -> None:
    if event.endswith("backend_compile_duration"):
        _compiled.append(event)


jax.monitoring.register_event_duration_secs_listener(_note)


def compilations(run: Callable[[], Any]) -> int:
    """How many programs XLA compiles in a call."""
    before = len(_compiled)
    jax.block_until_ready(jax.tree.leaves(eqx.filter(run(), eqx.is_array)))
    return len(_compiled) - before


def low_precision() -> Any:
    return jax.tree.map(lambda x: x.astype("float32"), SMALL.arguments)


@EVERY_SOLVER
def test_a_new_value_compiles_nothing(settings: Settings) -> None:
    def run(solver: pjp.AbstractSolver, **limits: Any) -> pjp.Solution:
        return SMALL.solve(solver, **{"max_steps": 2, "tol": 1e-3} | limits)

    first = settings.made(0)
    jax.block_until_ready(run(first).params)
    assert compilations(lambda: jax.jit(lambda x: x + 1)(1.0)) == 1  # such are counted
    for row in settings.rows:
        for value in row.values[1:]:
            others = {other.setting: other.values[0] for other in settings.rows}
            solver = make(settings.solver, **others | {row.setting: value})
            assert compilations(lambda solver=solver: run(solver)) == 0
    assert compilations(lambda: run(first, max_steps=3)) == 0
    assert compilations(lambda: run(first, tol=0.5)) == 0


@ONE_SETTING
def test_numbers_of_every_kind(row: Row) -> None:
    value = row.values[1]

    def run(value: Any, **settings: Any) -> pjp.Solution:
        return SMALL.solve(row.make(value), **{"max_steps": 2, "tol": 1e-3} | settings)

    expected = run(value)
    assert compilations(lambda: run(value, tol=0)) <= 1  # an integer is another dtype
    for kind in KINDS.values():
        same = run(kind(value), tol=kind(1e-3), max_steps=np.int64(2))
        assert compilations(lambda kind=kind: run(kind(value), tol=kind(1e-3), max_steps=np.int64(2))) == 0
        tolerance = 1e-6 if kind in (KINDS["numpy float32"], KINDS["strong jax array"]) else 1e-12
        chex.assert_trees_all_close(same.params, expected.params, rtol=tolerance, atol=tolerance)


@EVERY_SETTING
@pytest.mark.parametrize("kind", ["numpy float64", "strong jax array"])
def test_a_setting_changes_no_dtype(row: Row, kind: str) -> None:
    def run(params: Any, *args: Any) -> Any:
        solver = row.make(KINDS[kind](row.values[1]))
        return pjp.solve(SMALL.fn, params, *args, solver=solver, max_steps=2).state

    state = eqx.filter_eval_shape(run, *low_precision())
    floating = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {x.dtype.name for x in floating} == {"float32"}


@EVERY_SOLVER
def test_vmap_over_settings_is_a_loop(settings: Settings) -> None:
    def run(solver: pjp.AbstractSolver, tol: Any, max_steps: Any) -> tuple[Any, Array]:
        solution = SMALL.solve(solver, max_steps, tol=tol)
        return solution.params, solution.stats["num_steps"]

    tols, steps = np.array([0.0, 1e9, 0.0]), np.array([3, 5, 1])
    alone = [run(settings.made(i), tols[i], steps[i]) for i in range(3)]
    expected = jax.tree.map(lambda *x: np.stack(x), *alone)
    np.testing.assert_array_equal(expected[1], [3, 1, 1])
    found = eqx.filter_vmap(run)(settings.mapped(), jnp.asarray(tols), jnp.asarray(steps))
    chex.assert_trees_all_close(found, expected, rtol=1e-9, atol=1e-11)


@ONE_SETTING
def test_a_solver_made_of_traced_numbers(row: Row) -> None:
    def run(value: Any) -> Any:
        return SMALL.solve(row.make(value), 2).params

    expected = jax.tree.map(lambda *x: jnp.stack(x), *map(run, row.values))
    found = jax.jit(jax.vmap(run))(jnp.array(row.values))
    chex.assert_trees_all_close(found, expected, rtol=1e-9, atol=1e-11)


@EVERY_SETTING
def test_what_is_not_allowed_is_refused_where_it_is_known(row: Row) -> None:
    name = row.setting
    for kind in KINDS.values():
        with pytest.raises(pjp.ArgumentError, match=f"{name}.*: expected"):
            row.make(kind(row.wrong))
    with pytest.raises(pjp.ArgumentError, match=f"{name}.*: expected"):
        row.make(jnp.array([row.values[0], row.wrong]))
    for value in (True, "0.5", 1j, *(() if name == "lam" else (None,))):
        with pytest.raises(pjp.ArgumentError, match=f"{name}.*: expected"):
            row.make(value)
    with pytest.raises(pjp.ArgumentError, match=r"expected a number, given an array of shape \(3,\)"):
        SMALL.solve(row.make(jnp.array(row.values)), 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_steps": 2.0}, "max_steps: expected an integer of at least 0, given 2.0"),
        ({"max_steps": np.int64(-1)}, "max_steps: expected an integer of at least 0, given"),
        ({"max_steps": True}, "max_steps: expected an integer of at least 0, given True"),
        ({"max_steps": np.array([1, 2])}, "max_steps: expected an integer of at least 0, given"),
        ({"tol": -1.0}, "tol: expected a finite number of at least 0 or None, given -1.0"),
        ({"tol": jnp.inf}, "tol: expected a finite number of at least 0 or None, given"),
        ({"tol": np.float32("nan")}, "tol: expected a finite number of at least 0 or None, given"),
    ],
)
def test_arguments_that_are_none(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(pjp.ArgumentError, match=message):
        pjp.solve(SMALL.fn, *SMALL.arguments, **{"solver": pjp.DouglasRachford(), "max_steps": 1} | settings)


def test_a_schedule() -> None:
    """A relaxation that falls from step to step, inside a scan."""
    params, *args = SMALL.arguments
    schedule = jnp.array([0.5, 0.4, 0.3])
    start = SMALL.solve(pjp.DouglasRachford(), 0).state

    def step(state: Any, relaxation: Array) -> tuple[Any, Array]:
        solver = pjp.DouglasRachford(relaxation=relaxation)
        solution = pjp.solve(SMALL.fn, params, *args, solver=solver, max_steps=1, state=state)
        return solution.state, solution.stats["gap"]

    scanned, _ = jax.jit(lambda state: jax.lax.scan(step, state, schedule))(start)
    looped = start
    for value in schedule:
        looped, _ = step(looped, value)
    chex.assert_trees_all_close(scanned, looped, rtol=1e-10, atol=1e-12)


WRAPPERS = {
    "anderson": pjp.Anderson(pjp.AlternatingProjections()),
    "restarted": pjp.Restarted(pjp.AlternatingProjections()),
    "adaptive metric": pjp.AdaptiveMetric(pjp.AlternatingProjections(), rate=0.1),
    "nested": pjp.Anderson(pjp.Restarted(pjp.AlternatingProjections())),
}


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=pytest.mark.slow if x == "anderson" else ()) for x in WRAPPERS]
)  # the outer one of those that are nested
def test_the_gap_is_that_of_the_returned_state(name: str) -> None:
    """A step ends in the second set, at the reported distance from the first."""
    solver = WRAPPERS[name]
    solution = SMALL.solve(solver, 7)
    assert isinstance(solution.state, pjp.solvers.WrapperState)
    point = solver.point(solution.state)
    assert len(point) == len(solution.node_names)
    plain = SMALL.solve(pjp.AlternatingProjections(), 7)
    chex.assert_trees_all_equal_shapes_and_dtypes(point, plain.state)
    # The gap cannot be less than what one more plain step from there has to make good.
    more = SMALL.solve(pjp.AlternatingProjections(), 1, state=point)
    if name != "adaptive metric":
        assert more.stats["gap"] <= solution.stats["gap"] * (1 + 1e-9)
