"""What a task may say."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pjax_prim.errors import ArgumentError, DataError, NonFiniteError, PreemptedError
from pjax_prim.training import Evaluator, Mean, RunFolder, evaluate_run, load_run_model, train

from .runs import EVERY, outcome, stop_after
from .small import BATCHES, TASK, X, Y, config, linear, same, squares


def test_the_loss_of_a_set_is_that_of_its_rows() -> None:
    result = train(TASK, config())
    errors = jax.vmap(result.model)(X) - Y
    assert result.rows[-1]["test_loss"] == pytest.approx(float(jnp.mean(errors**2)) / 2, rel=1e-5)
    assert result.summary()["test_loss"] == result.rows[-1]["test_loss"]


def test_a_masked_mean_says_its_weight() -> None:
    def loss(model: Any, batch: Any, key: Any) -> Any:
        values, mask = jnp.square(jax.vmap(model)(batch[0]) - batch[1])[:, 0], batch[0][:, 0] > 0
        mean = Mean.of(values, mask)
        return mean.value, {"loss": mean, "count": mask}

    task = replace(TASK, loss=loss)
    model = linear(jax.random.key(1))
    found = Evaluator(task)(model, None)
    mask = X[:, 0] > 0
    errors = np.square(np.asarray(jax.vmap(model)(X) - Y))[mask]
    assert found["test_loss"] == pytest.approx(errors.mean(), rel=1e-5)
    assert found["test_count"] == pytest.approx(mask.mean())


def test_bits_and_perplexity_follow_from_the_mean() -> None:
    found = Evaluator(replace(TASK, nats=True))(linear(jax.random.key(1)), None)
    assert found["test_bits"] == pytest.approx(found["test_loss"] / math.log(2))
    assert found["test_perplexity"] == pytest.approx(math.exp(found["test_loss"]))


def test_micro_batches_are_the_batch() -> None:
    for solver in ("sgd", "displacement"):
        whole = train(TASK, config(solver=solver, learning_rate=0.1))
        same(
            train(TASK, config(solver=solver, learning_rate=0.1, micro_batches=4)),
            whole,
            rtol=1e-3,
            atol=1e-5,
        )
    with pytest.raises(ArgumentError, match="micro_batches: 3 do not divide a batch of 8 examples"):
        train(TASK, config(micro_batches=3))


@pytest.mark.parametrize("solver", ["sgd", "displacement", "ap"])
def test_half_precision_computes_for_single_parameters(solver: str) -> None:
    seen = []

    def loss(model: Any, batch: Any, key: Any) -> Any:
        seen.append((model.weight.dtype, batch[0].dtype))
        return squares(model, batch, key)

    steps = {"steps_per_batch": 3} if solver == "ap" else {"learning_rate": 0.1}
    result = train(replace(TASK, loss=loss), config(solver=solver, compute_dtype="bfloat16", **steps))
    assert seen[0] == (jnp.bfloat16, jnp.bfloat16)
    assert result.model.weight.dtype == jnp.float32
    single = train(TASK, config(solver=solver, **steps))
    same(result, single, rtol=0.1, atol=0.05)
    moved = np.abs(np.asarray(result.model.weight - linear(jax.random.key(0)).weight)).max()
    assert moved > 0.01


def test_an_optimiser_by_name_and_of_a_tasks_own() -> None:
    import optax

    named = config(
        solver="gradient", optimiser="adamw", learning_rate=0.01, clip=0.5, decay_matrices=True,
        optimiser_settings={"weight_decay": 0.3},
    )  # fmt: skip

    def own(rate: Any) -> Any:
        mask = lambda params: jax.tree.map(lambda x: x.ndim > 1, params)  # noqa: E731
        return optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(rate, weight_decay=0.3, mask=mask))

    given = config(solver="gradient", learning_rate=0.01)
    same(train(TASK, named), train(replace(TASK, optimiser=own), given))
    for fields, message in (
        ({"optimiser": "adma"}, "optimiser: optax has no optimiser 'adma'; did you mean adam"),
        ({"optimiser": "lion"}, "learning_rate: lion has no default here; give one"),
        (
            {"optimiser": "adam", "optimiser_settings": {"b3": 1.0}},
            "optimiser_settings: adam has no setting 'b3'; did you mean b",
        ),
        ({"optimiser": "sgd", "decay_matrices": True}, "decay_matrices: sgd has no weight decay"),
        ({"optimiser": "lbfgs", "learning_rate": 0.1}, "optimiser: expected one that takes updates, its st"),
    ):
        with pytest.raises(ArgumentError, match=message):
            train(TASK, config(**{"solver": "gradient", **fields}))


def test_frozen_parameters_stay() -> None:
    frozen = lambda model: eqx.tree_at(lambda m: m.bias, jax.tree.map(eqx.is_inexact_array, model), False)  # noqa: E731
    for solver in ("adam", "displacement", "cp"):
        few = {"steps_per_batch": 2} if solver == "cp" else {}
        before = linear(jax.random.key(0))
        after = train(replace(TASK, trainable=frozen), config(solver=solver, **few)).model
        np.testing.assert_allclose(after.bias, before.bias, rtol=1e-6)
        assert np.abs(after.weight - before.weight).max() > 0
    with pytest.raises(ArgumentError, match="trainable: expected floating-point arrays to train, found none"):
        train(replace(TASK, trainable=lambda model: False), config())


class Normed(eqx.Module):
    linear: eqx.nn.Linear
    norm: eqx.nn.BatchNorm

    def __init__(self, key: jax.Array):
        self.linear = eqx.nn.Linear(3, 1, dtype=jnp.float32, key=key)
        self.norm = eqx.nn.BatchNorm(1, "batch", mode="batch", dtype=jnp.float32)

    def __call__(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        found: tuple[jax.Array, eqx.nn.State] = self.norm(self.linear(x), state)
        return found


def normed_loss(model: Any, state: Any, batch: Any, key: Any) -> Any:
    found, state = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(batch[0], state)
    return 0.5 * jnp.mean(jnp.square(found - batch[1])), state


def test_a_step_is_compiled_once(caplog: pytest.LogCaptureFixture) -> None:
    task = replace(TASK, model=eqx.nn.make_with_state(Normed), loss=normed_loss, stateful=True, evaluate={})
    with jax.log_compiles():
        train(task, config(solver="adam"))
    compiled = [text for text in caplog.messages if "Finished XLA compilation of jit(run)" in text]
    assert len(compiled) == 1


@pytest.mark.parametrize("solver", [pytest.param("adam", marks=pytest.mark.slow), "displacement"])
def test_the_state_of_a_model_is_carried_and_saved(solver: str, tmp_path: Path) -> None:
    task = replace(TASK, model=eqx.nn.make_with_state(Normed), loss=normed_loss, stateful=True)
    whole, folder = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "stopped")
    expected = train(task, config(solver=solver), whole, saving=EVERY)
    _, first = eqx.nn.make_with_state(Normed)(jax.random.key(0))
    assert not eqx.tree_equal(eqx.filter(expected.state.model_state, eqx.is_array), first)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(PreemptedError):
            train(task, config(solver=solver), folder, saving=EVERY)
    resumed = train(task, config(solver=solver), folder, resume=True, saving=EVERY)
    assert outcome(resumed, folder) == outcome(expected, whole)
    model, state = load_run_model(task, folder)
    chex.assert_trees_all_equal(
        *(jax.tree.leaves(eqx.filter(x, eqx.is_array)) for x in (state, expected.state.model_state))
    )
    assert evaluate_run(task, folder)["test_loss"] == expected.rows[-1]["test_loss"]


def test_batches_that_are_not_finite_are_skipped_and_counted(tmp_path: Path) -> None:
    bad = (X[:8] * np.inf, Y[:8])
    task = replace(TASK, train=[BATCHES[0], bad, BATCHES[1]])
    allowed = replace(config(3), skip_non_finite=1)
    folder = RunFolder(tmp_path)
    result = train(task, allowed, folder)
    assert [row.get("skipped") for row in result.rows] == [None, True, None]
    assert result.rows[1]["loss"] is None and result.summary()["skipped"] == 1
    assert "NaN" not in folder.metrics.read_text()
    same(result, train(replace(TASK, train=BATCHES[:2]), config(2)))
    with pytest.raises(NonFiniteError, match="batch 2: The loss, a direction or an update is not finite"):
        train(task, config(20))
    two = replace(TASK, train=[BATCHES[0], bad, bad])
    with pytest.raises(NonFiniteError, match="batch 3: "):
        train(two, replace(config(20), skip_non_finite=1))


def test_bad_tasks() -> None:
    for fields, message in (
        ({"model": 3}, "model: expected a function, given 3"),
        ({"evaluate": BATCHES}, "evaluate: expected a dictionary from names to batches"),
        ({"best": "loss"}, "best: expected 'max NAME' or 'min NAME'"),
        (
            {"loss": lambda m, b, k: "x"},
            "loss: expected a number or an array, or a pair of it and a dictionary",
        ),
        ({"stateful": True}, "model: expected a pair of module and state of a stateful task"),
        ({"evaluate": {"test": []}}, "evaluate: test: expected batches, found none"),
        (
            {"best": "max dev_loss"},
            r"best: expected a figure of an evaluation .test_\.\.\.., given 'dev_loss'",
        ),
        ({"evaluate": {}, "best": "min test_loss"}, "best: expected a figure of an evaluation .none."),
    ):
        with pytest.raises((ArgumentError, DataError), match=message):
            train(replace(TASK, **fields), config())


def test_no_task() -> None:
    with pytest.raises(ArgumentError, match=r"task: expected a pjax_prim.training.Task, given \[\]"):
        train([])  # type: ignore[arg-type]
