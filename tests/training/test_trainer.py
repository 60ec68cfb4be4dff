import json
from dataclasses import replace

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_prim as pjp
from pjax_prim.data import batch, load
from pjax_prim.errors import NonFiniteError
from pjax_prim.models import MLP
from pjax_prim.training import (
    RunFolder,
    TrainConfig,
    accuracy,
    evaluate_run,
    make_loss,
    make_state,
    make_step,
    params_sha256,
    train,
)

SMALL = TrainConfig(hidden=(16,), batch_size=64, batches=4, steps_per_batch=3, eval_every=2)
SOLVERS = ("ap", "ar", "dr", "dm", "cp", "cdr", "adam", "sgd")


def one_batch(config: TrainConfig = SMALL):
    dataset = load(config.data)
    return config.make_model(dataset), batch(dataset, config.batch_size, seed=config.seed, step=0)


def test_accuracy_counts_over_chunks(monkeypatch) -> None:
    monkeypatch.setattr("pjax_prim.training.evaluate._CHUNK", 4)
    x = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2, 0, 1, 2]]
    assert accuracy(lambda row: row, x, np.array([0, 1, 2, 0, 1, 2, 1, 2, 0])) == pytest.approx(6 / 9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_trains(solver: str) -> None:
    result = train(replace(SMALL, solver=solver))
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
    config = replace(SMALL, solver="dr", relaxation=0.7, loss="margin")
    model, (x, labels) = one_batch(config)
    state, metrics = eqx.filter_jit(make_step(config))(make_state(config, model), x, labels)
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
    config = replace(SMALL, solver="sgd", learning_rate=0.5, steps_per_batch=None, loss=loss)
    model, (x, labels) = one_batch(config)
    state, metrics = eqx.filter_jit(make_step(config))(make_state(config, model), x, labels)
    trained = state.model
    value, gradient = eqx.filter_value_and_grad(lambda m: jnp.mean(make_loss(config)(m, x, labels)))(model)
    expected = eqx.apply_updates(model, jax.tree.map(lambda g: -0.5 * g, gradient))
    chex.assert_trees_all_close(
        eqx.filter(trained, eqx.is_array), eqx.filter(expected, eqx.is_array), rtol=1e-5, atol=1e-6
    )
    assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-5)


def test_run_folder_holds_the_run(tmp_path) -> None:
    folder = RunFolder(tmp_path / "run")
    seen: list[dict] = []
    result = train(replace(SMALL, solver="adam"), folder, on_batch=seen.append)
    assert seen == result.rows
    assert [json.loads(line) for line in folder.metrics.read_text().splitlines()] == result.rows
    timings = [json.loads(line) for line in folder.timings.read_text().splitlines()]
    assert [row["seconds"] for row in timings] == result.timings == sorted(result.timings)
    assert folder.load_config() == result.config
    assert folder.curves.read_bytes().startswith(b"\x89PNG")
    summary = result.summary()
    evaluated = evaluate_run(folder)
    assert evaluated == {name: summary[name] for name in evaluated}
    assert summary["params_sha256"] == params_sha256(result.model)


def test_same_configuration_same_parameters() -> None:
    config = replace(SMALL, batches=2)
    assert params_sha256(train(config).model) == params_sha256(train(config).model)


def test_gradients_that_overflow_stop_the_run(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    config = replace(SMALL, solver="sgd", learning_rate=1e38, batches=20)
    with pytest.raises(
        NonFiniteError, match=r"batch \d+: .*not finite.*the model before it is saved in .*model.eqx"
    ):
        train(config, folder)
    saved = folder.load_model(one_batch()[0])
    chex.assert_tree_all_finite(eqx.filter(saved, eqx.is_array))


def test_projections_that_overflow_name_the_node(tmp_path, monkeypatch) -> None:
    make_model = TrainConfig.make_model

    def huge(config: TrainConfig, dataset) -> MLP:
        return jax.tree.map(lambda x: x * 1e30, make_model(config, dataset))

    monkeypatch.setattr(TrainConfig, "make_model", huge)
    folder = RunFolder(tmp_path)
    with pytest.raises(NonFiniteError, match=r"batch 1: .* First at node '\w+'\. Training stopped; "):
        train(SMALL, folder)
    assert eqx.tree_equal(folder.load_model(one_batch()[0]), one_batch()[0])


def test_a_projection_solver_learns_digits() -> None:
    result = train(TrainConfig(batches=6, eval_every=6))
    assert result.rows[-1]["test_accuracy"] > 0.8
