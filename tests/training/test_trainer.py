import json
import math
import re
from dataclasses import replace

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_prim as pjp
from pjax_prim.data import InOrder, hold_out, load
from pjax_prim.errors import ArgumentError, NonFiniteError
from pjax_prim.training import (
    Evaluator,
    RunFolder,
    Task,
    TrainState,
    evaluate_run,
    make_state,
    make_step,
    params_sha256,
    train,
    train_seeds,
)
from pjax_prim.training.methods import PROJECTION_SOLVERS
from pjax_prim.training.optimisers import make_schedule
from pjax_prim.training.trainer import has_stopped

from .runs import made, run

SMALL = {"hidden": (16,), "batch_size": 64, "batches": 4, "steps_per_batch": 3, "eval_every": 2}
SOLVERS = (*PROJECTION_SOLVERS, "adam", "sgd")


def one_batch(fields: dict = SMALL):
    """The model of a run, and its first batch."""
    task, config = made(fields)
    return task.make_model(jax.random.key(config.seed))[0], task.data(config.seed)[0]


def first_state(fields: dict) -> TrainState:
    task, config = made(fields)
    return make_state(config, task, jax.random.key(config.seed))


def one_step(fields: dict):
    """The state and the metrics after the first batch, and the model and the batch before it."""
    task, config = made(fields)
    model, batch = one_batch(fields)
    return *eqx.filter_jit(make_step(config, task))(first_state(fields), batch), model, batch


def test_the_last_short_batch_counts_for_its_rows() -> None:
    x = np.arange(7, dtype=np.float32)
    sets = {"whole": InOrder(x, 7), "parts": InOrder(x, 3)}
    metrics = {
        "number": lambda m, x: {"loss": jnp.mean(x), "mean": x},
        "none": None,
    }
    for kind in metrics.values():
        task = Task(
            model=lambda key: jnp.zeros(()),
            loss=lambda m, x, key: (jnp.mean(x), {"mean": x}),
            train=[x],
            evaluate=sets,
            metrics=kind,
        )
        names = ("whole_loss", "whole_mean", "parts_loss", "parts_mean")
        found = Evaluator(task)(jnp.zeros(()), None)
        assert found == pytest.approx(dict.fromkeys(names, 3.0), rel=1e-6)  # of single precision


@pytest.mark.parametrize(
    "solver",
    [pytest.param(x, marks=pytest.mark.slow if x in ("ar", "dm", "cp", "cdr") else ()) for x in SOLVERS],
)
def test_every_solver_trains(solver: str) -> None:
    result = run({**SMALL, "solver": solver})
    assert [row["batch"] for row in result.rows] == [1, 2, 3, 4]
    assert ["test_accuracy" in row for row in result.rows] == [False, True, False, True]
    assert all(("gap" in row) is (solver not in ("adam", "sgd")) for row in result.rows)
    before, _ = one_batch()
    moved = [
        np.abs(new - old).max()
        for new, old in zip(jax.tree.leaves(result.model), jax.tree.leaves(before), strict=True)
    ]
    assert min(moved) > 0


def test_the_step_is_solve() -> None:
    fields = {**SMALL, "solver": "dr", "relaxation": 0.7, "loss": "margin"}
    state, metrics, model, (x, labels) = one_step(fields)
    trained = state.model

    def loss(model, x, labels):
        return pjp.margin_loss(jax.vmap(model)(x), labels)

    solver = pjp.DouglasRachford(relaxation=0.7)
    solution = pjp.solve(loss, model, x, labels, solver=solver, max_steps=3, tol=None)
    chex.assert_trees_all_close(
        eqx.filter(trained, eqx.is_array), eqx.filter(solution.params, eqx.is_array), rtol=1e-4, atol=1e-6
    )
    assert float(metrics["gap"]) == pytest.approx(float(solution.stats["gap"]), rel=1e-3)


@pytest.mark.parametrize("loss", ["cross_entropy", "margin", "squared_error"])
def test_sgd_is_a_gradient_step_on_the_same_loss(loss: str) -> None:
    fields = {**SMALL, "solver": "sgd", "learning_rate": 0.5, "steps_per_batch": None, "loss": loss}
    state, metrics, model, batch = one_step(fields)
    trained = state.model
    of_task = made(fields)[0].loss
    value, gradient = eqx.filter_value_and_grad(lambda m: jnp.mean(of_task(m, batch, None)))(model)
    expected = eqx.apply_updates(model, jax.tree.map(lambda g: -0.5 * g, gradient))
    chex.assert_trees_all_close(
        eqx.filter(trained, eqx.is_array), eqx.filter(expected, eqx.is_array), rtol=1e-5, atol=1e-6
    )
    assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-5)


def test_run_folder_holds_the_run(tmp_path) -> None:
    folder = RunFolder(tmp_path / "run")
    seen: list[dict] = []
    result = run({**SMALL, "solver": "adam"}, folder, on_batch=seen.append)
    assert seen == result.rows
    assert [json.loads(line) for line in folder.metrics.read_text().splitlines()] == result.rows
    timings = [json.loads(line) for line in folder.timings.read_text().splitlines()]
    assert [row["seconds"] for row in timings] == result.timings == sorted(result.timings)
    assert folder.load_config() == result.config
    assert folder.load_origin() == result.task.origin
    summary = result.summary()
    evaluated = evaluate_run(result.task, folder)
    assert evaluated == {name: summary[name] for name in evaluated}
    assert summary["params_sha256"] == params_sha256(result.model)


def test_same_configuration_same_parameters() -> None:
    config = {**SMALL, "batches": 2}
    assert params_sha256(run(config).model) == params_sha256(run(config).model)


def test_gradients_that_overflow_stop_the_run(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    config = {**SMALL, "solver": "sgd", "learning_rate": 1e38, "batches": 20}
    with pytest.raises(
        NonFiniteError, match=r"batch \d+: .*not finite.*the model before it is saved in .*model.eqx"
    ):
        run(config, folder)
    saved = folder.load_model(one_batch()[0])
    chex.assert_tree_all_finite(eqx.filter(saved, eqx.is_array))


def test_projections_that_overflow_name_the_node(tmp_path) -> None:
    task, config = made(SMALL)
    huge = replace(task, model=lambda key: jax.tree.map(lambda x: x * 1e30, task.model(key)))
    folder = RunFolder(tmp_path)
    with pytest.raises(NonFiniteError, match=r"batch 1: .* First at node '\w+'\. Training stopped; "):
        train(huge, config, folder)
    like = huge.make_model(jax.random.key(0))[0]
    chex.assert_trees_all_close(folder.load_model(like), like, rtol=1e-6)


def test_a_projection_solver_learns_digits() -> None:
    result = run({"batches": 6, "eval_every": 6})
    assert result.rows[-1]["test_accuracy"] > 0.8


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_the_learning_rate_rises_and_falls(schedule: str) -> None:
    config = {**SMALL, "solver": "sgd", "steps_per_batch": 2, "batches": 6, "schedule": schedule, "warmup": 2}
    rate = make_schedule(made(config)[1], 0.5)
    rates = [float(rate(update)) for update in range(12)]
    assert rates[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4]) and rates[4] == pytest.approx(0.5)
    falling = {
        "constant": [0.5] * 8,
        "linear": [0.5 * (1 - i / 8) for i in range(8)],
        "cosine": [0.25 * (1 + math.cos(math.pi * i / 8)) for i in range(8)],
    }
    assert rates[4:] == pytest.approx(falling[schedule])
    assert make_schedule(made({**config, "schedule": None, "warmup": None})[1], 0.5) == 0.5


def test_a_schedule_is_what_the_steps_take() -> None:
    config = {
        **SMALL,
        "solver": "sgd",
        "steps_per_batch": None,
        "batches": 2,
        "schedule": "linear",
        "learning_rate": 0.5,
    }
    task, _ = made(config)
    model, _ = task.make_model(jax.random.key(0))
    for number, rate in enumerate((0.5, 0.25)):
        batch = task.data(0)[number]
        gradient = eqx.filter_grad(lambda m, b=batch: jnp.mean(task.loss(m, b, None)))(model)
        model = eqx.apply_updates(model, jax.tree.map(lambda g, rate=rate: -rate * g, gradient))
    chex.assert_trees_all_close(
        *(eqx.filter(m, eqx.is_array) for m in (run(config).model, model)), rtol=1e-4, atol=1e-6
    )


def test_examples_are_held_out() -> None:
    whole = load("digits")
    parts = hold_out(whole, 0.25)
    assert parts.validation_x is not None and parts.validation_y is not None
    assert len(parts.validation_x) == round(0.25 * len(whole.train_x))
    rows = np.concatenate([np.c_[x, y] for x, y in ((parts.train_x, parts.train_y),
                                                    (parts.validation_x, parts.validation_y))])  # fmt: skip
    expected = np.c_[whole.train_x, whole.train_y]
    np.testing.assert_array_equal(*(x[np.lexsort(x.T)] for x in (rows, expected)))
    assert parts.test_x is whole.test_x
    with pytest.raises(ArgumentError, match="validation: expected a share that leaves some of the"):
        hold_out(whole, 1e-6)


def test_a_run_stops_when_held_out_examples_say_so(tmp_path) -> None:
    # At this rate nothing is learned: no evaluation is better than the first.
    config = {
        **SMALL, "solver": "sgd", "learning_rate": 1e-12, "steps_per_batch": None, "batches": 30,
        "validation": 0.2, "patience": 3, "track_best": True,
    }  # fmt: skip
    folder = RunFolder(tmp_path)
    result = run(config, folder)
    found = [row["validation_accuracy"] for row in result.rows if "validation_accuracy" in row]
    task, parsed = made(config)
    assert found == 4 * found[:1] and len(result.rows) < 30
    assert has_stopped(parsed, task, result.rows) and not has_stopped(parsed, task, result.rows[:-1])
    assert float(result.state.best.figure) == pytest.approx(max(found))
    rows = [{"validation_accuracy": x} for x in (0.3, 0.5, 0.5, 0.4)]
    assert not has_stopped(parsed, task, rows)
    assert has_stopped(parsed, task, [*rows, {"loss": 1.0}, rows[0]])
    assert not has_stopped(parsed, task, [])
    assert not has_stopped(made({**config, "patience": None})[1], task, 9 * rows)
    # A stopped run is finished: it stays as it is.
    again = run(config, folder, resume=True)
    assert again.rows == result.rows


def test_seeds_at_once_are_runs_of_their_own() -> None:
    config = {
        **SMALL,
        "solver": "adam",
        "steps_per_batch": 2,
        "dropout": 0.2,
        "batches": 3,
        "validation": 0.1,
        "average": 0.5,
    }
    seen = []
    result = train_seeds(*made(config), (3, 1), on_evaluation=seen.append)
    assert seen == result.rows and [row["batch"] for row in result.rows] == [2, 3]
    for number, seed in enumerate((3, 1)):
        alone = run({**config, "seed": seed})
        pair = (eqx.filter(m, eqx.is_array) for m in (result.models[number], alone.model))
        chex.assert_trees_all_close(*pair, rtol=1e-4, atol=1e-5)
        for name in ("train_accuracy", "validation_accuracy", "test_accuracy"):
            assert result.rows[-1][name][number] == pytest.approx(alone.rows[-1][name], abs=0.01)
    summary = result.summary()
    of_all = summary["by_seed"]["validation_accuracy"]
    assert summary["validation_accuracy"] == pytest.approx(np.mean(of_all))
    assert summary["deviation"] == pytest.approx(np.std(of_all, ddof=1))


@pytest.mark.parametrize(
    ("fields", "seeds", "message"),
    [
        ({}, (), "seeds: expected different numbers of at least 0, given []"),
        ({}, (1, 1), "seeds: expected different numbers of at least 0, given [1, 1]"),
        ({"track_best": True}, (1, 2), "track_best: only for a run of one seed, given with 2 seeds"),
        ({"mesh": "data=1"}, (1, 2), "mesh: only for a run of one seed, given with 2 seeds"),
        (
            {"validation": 0.1, "patience": 1},
            (1,),
            "patience: only for a run of one seed, given with 1 seeds",
        ),
    ],
)
def test_wrong_seeds(fields: dict, seeds: tuple, message: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(message)):
        train_seeds(*made({**SMALL, **fields}), seeds)


def test_a_seed_that_is_not_finite_is_named() -> None:
    config = {**SMALL, "solver": "sgd", "learning_rate": 1e38, "steps_per_batch": 3}
    with pytest.raises(NonFiniteError, match="batch 1: a value of seed 4 is not finite"):
        train_seeds(*made(config), (4, 5))
