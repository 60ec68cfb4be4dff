"""Tasks that are not built in: the example of `docs/tasks.md`, and one for everything a task may say."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import chex
import equinox as eqx
import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pjax_prim.cli import main
from pjax_prim.errors import ArgumentError, DataError, NonFiniteError, PreemptedError
from pjax_prim.tasks import TaskFile
from pjax_prim.training import (
    Evaluator,
    Mean,
    Method,
    RunFolder,
    Task,
    TrainConfig,
    TrainResult,
    evaluate_run,
    load_run_model,
    params_sha256,
    train,
)

from .runs import EVERY, outcome, stop_after

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def waves(tmp_path: Path) -> Path:
    """The example of the documentation, as a file."""
    code = (ROOT / "docs" / "tasks.md").read_text().split("```python\n", 1)[1].split("```", 1)[0]
    assert len(code.splitlines()) <= 60
    path = tmp_path / "waves.py"
    path.write_text(code)
    return path


def last_json(capsys: pytest.CaptureFixture[str]) -> dict:
    found: dict = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


SMALL = ["--width", "8", "--batch-size", "16", "--batches", "4"]


@pytest.mark.parametrize(
    "solver", ["displacement", *(pytest.param(x, marks=pytest.mark.slow) for x in ("adam", "ap"))]
)
def test_the_example_in_every_command(
    solver: str, waves: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    few = ["--steps-per-batch", "3"] if solver == "ap" else []
    arguments = [str(waves), *SMALL, "--solver", solver, *few]
    assert main(["train", *arguments, "--run-dir", str(run), "--json"]) == 0
    trained = last_json(capsys)
    assert trained["test_loss"] > 0 and trained["test_error"] > 0 and (run / "curves.png").exists()
    assert main(["eval", "--run-dir", str(run), "--json"]) == 0
    found = last_json(capsys)
    assert found == {name: trained[name] for name in ("test_error", "test_loss", "params_sha256")}
    # Options that are left out are as before; the run goes on for longer.
    assert main(["train", "--run-dir", str(run), "--resume", "--batches", "6", "--json"]) == 0
    longer = last_json(capsys)
    whole = tmp_path / "whole"
    arguments[arguments.index("--batches") + 1] = "6"
    assert main(["train", *arguments, "--run-dir", str(whole), "--json"]) == 0
    assert last_json(capsys)["params_sha256"] == longer["params_sha256"]
    assert main(["export", str(run), "--to", str(tmp_path / "out.safetensors"), "--json"]) == 0
    assert last_json(capsys)["params_sha256"] == longer["params_sha256"]
    assert main(["inspect", str(run), "--json"]) == 0
    assert last_json(capsys)["task"]["options"]["width"] == 8


def test_the_example_in_graph_bench_and_seeds(waves: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph", str(waves), "--width", "4", "--batch-size", "3", "--json"]) == 0
    assert last_json(capsys)["parameters"] == 6
    bench = ["--case", "displacement", "--repeats", "1", "--width", "4", "--json"]
    assert main(["bench", str(waves), *bench]) == 0
    assert last_json(capsys).keys() >= {"step_ms", "adam_step_ms", "compile_s", "adam_compile_s"}
    assert main(["seeds", str(waves), *SMALL, "--seeds", "0", "1", "--solver", "adam", "--json"]) == 0
    figures = last_json(capsys)
    assert len(set(figures["by_seed"]["test_loss"])) == 2 and figures["deviation"] > 0


def test_options_from_a_file(waves: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, run = tmp_path / "run.toml", tmp_path / "run"
    config.write_text('[task]\nwidth = 5\n[train]\nbatches = 2\n[train.method]\nsolver = "sgd"\n')
    arguments = ["train", str(waves), "--config", str(config), "--run-dir", str(run), "--json"]
    assert main([*arguments, "--batches", "3"]) == 0
    capsys.readouterr()
    saved = json.loads((run / "config.json").read_text())
    assert saved["task"]["options"]["width"] == 5 and saved["train"]["method"]["solver"] == "sgd"
    assert saved["train"]["batches"] == 3
    config.write_text("[task]\nwidht = 5\n")
    assert main(arguments) == 2
    assert f"{config}: task: widht: no such field; did you mean width?" in capsys.readouterr().err
    config.write_text("[task\n")
    assert main(arguments) == 2
    assert f"{config}: not a configuration (" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1", "defines no function 'task'; docs/tasks.md has an example"),
        ("def task(width): ...", "task: argument 'width' has no annotation"),
        ("def task(*args): ...", "task(*args): expected arguments with names of their own"),
        ("def task(): return 3", "task(...): expected a Task, given 3"),
        ("import nothing_of_this_name", "cannot be imported (No module named 'nothing_of_this_name')"),
        ("def task(:", "cannot be imported ("),
    ],
)
def test_files_that_are_no_tasks(
    code: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.py"
    path.write_text(code)
    assert main(["graph", str(path)]) == 2
    assert message in capsys.readouterr().err


#
# What a task may say
#

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
Y = (X @ np.array([[1.0], [2.0], [-1.0]], np.float32)) + 1
BATCHES = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 40, 8)]
SHORT = [(X[i : i + 12], Y[i : i + 12]) for i in range(0, 40, 12)]


def linear(key: jax.Array) -> eqx.nn.Linear:
    return eqx.nn.Linear(3, 1, dtype=jnp.float32, key=key)


def squares(model: Any, batch: Any, key: Any) -> Any:
    return 0.5 * jnp.mean(jnp.square(jax.vmap(model)(batch[0]) - batch[1]))


TASK = Task(model=linear, loss=squares, train=BATCHES, evaluate={"test": SHORT})


def config(batches: int = 5, **method: Any) -> TrainConfig:
    return TrainConfig(method=Method(**{"solver": "sgd", **method}), batches=batches, eval_every=batches)


def same(a: TrainResult, b: TrainResult, **tolerance: float) -> None:
    chex.assert_trees_all_close(
        *(eqx.filter(x.model, eqx.is_array) for x in (a, b)), **{"rtol": 1e-5, "atol": 1e-6, **tolerance}
    )


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
    frozen = lambda model: eqx.tree_at(lambda m: m.bias, jax.tree.map(lambda _: True, model), False)  # noqa: E731
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


#
# Data
#


class Rows:
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return X[index], Y[index]


def array_records(folder: Path) -> Any:
    """The rows in two files of records."""
    from array_record.python.array_record_module import ArrayRecordWriter

    paths = [str(folder / f"{n}.array_record") for n in range(2)]
    for part, path in enumerate(paths):
        if not Path(path).exists():
            writer = ArrayRecordWriter(path, "group_size:1")
            for x, y in list(zip(X, Y, strict=True))[20 * part : 20 * (part + 1)]:
                writer.write(x.tobytes() + y.tobytes())
            writer.close()
    return grain.sources.ArrayRecordDataSource(paths)


def decode(record: bytes) -> tuple[np.ndarray, np.ndarray]:
    size = X[0].nbytes
    return tuple(
        np.frombuffer(part, like.dtype).reshape(like.shape)
        for part, like in ((record[:size], X[0]), (record[size:], Y[0]))
    )


def pipeline(kind: str, folder: Path) -> Any:
    if kind.startswith("records"):
        rows = grain.MapDataset.source(array_records(folder)).seed(3).shuffle().map(decode)
    else:
        rows = grain.MapDataset.source(Rows()).seed(3).shuffle()
    return rows.repeat().to_iter_dataset().batch(8) if kind.endswith("states") else rows.batch(8)


@pytest.mark.usefixtures("shared_compilation")
@pytest.mark.parametrize(
    "kind",
    [
        "numbers",
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("states", "records, numbers")),
        "records, states",
    ],
)
def test_a_pipeline_goes_on_where_it_was(kind: str, tmp_path: Path) -> None:
    whole, folder = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "stopped")
    given = config(12, solver="adam")
    expected = train(replace(TASK, train=pipeline(kind, tmp_path)), given, whole, saving=EVERY)
    assert len({row["loss"] for row in expected.rows}) == 12
    if kind.startswith("records"):  # the same rows in the same order as from memory
        other = train(replace(TASK, train=pipeline(kind.removeprefix("records, "), tmp_path)), given)
        assert other.rows == expected.rows
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 7)
        with pytest.raises(PreemptedError):
            train(replace(TASK, train=pipeline(kind, tmp_path)), given, folder, saving=EVERY)
    resumed = train(replace(TASK, train=pipeline(kind, tmp_path)), given, folder, resume=True, saving=EVERY)
    assert outcome(resumed, folder) == outcome(expected, whole)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([], ArgumentError, "train: expected at least one batch, given none"),
        (
            (x for x in BATCHES),
            ArgumentError,
            "found again after a stop, given generator, whose iterator has",
        ),
        (3, ArgumentError, "train: expected batches, such as a grain pipeline or Shuffled, given 3"),
        (
            grain.MapDataset.source(Rows()).to_iter_dataset().batch(8),
            DataError,
            "train: the data ended after 5 of 6 batches; repeat them",
        ),
    ],
)
def test_data_that_do_not_do(data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        train(replace(TASK, train=data), config(6))


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


#
# Real processes
#


def command(waves: Path, run: Path) -> list[str]:
    program = "import sys; from pjax_prim.cli import main; sys.exit(main(sys.argv[1:]))"
    options = (
        "--width 6 --batch-size 8 --batches 60 --eval-every 20 --checkpoint-every 2 --resume --json".split()
    )
    return [sys.executable, "-c", program, "train", str(waves), *options, "--run-dir", str(run)]


def start(waves: Path, run: Path) -> subprocess.Popen:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "0"}
    return subprocess.Popen(
        command(waves, run), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def test_killed_and_resumed(waves: Path, tmp_path: Path) -> None:
    results = {}
    for name, signals in (("whole", ()), ("killed", (signal.SIGKILL,))):  # SIGTERM is in test_resume.py
        folder = RunFolder(tmp_path / name)
        for sent in signals:
            process = start(waves, folder.path)
            done = len(folder.metrics.read_text().splitlines()) if folder.metrics.exists() else 0
            while process.poll() is None and (
                not folder.metrics.exists() or len(folder.metrics.read_text().splitlines()) < done + 9
            ):
                time.sleep(0.01)
            process.send_signal(sent)
            process.communicate()
            assert process.returncode == -9
        process = start(waves, folder.path)
        out, err = process.communicate()
        assert process.returncode == 0, err
        results[name] = json.loads(out.splitlines()[-1])["params_sha256"], folder.metrics.read_bytes()
    assert results["whole"] == results["killed"]


def test_a_file_is_a_module_of_its_own(waves: Path) -> None:
    file = TaskFile(waves)
    task = file.make(file.options(width=3))
    assert task.name == "waves" and task.origin["options"] == {"width": 3, "batch_size": 32, "dropout": 0.0}
    assert params_sha256(task.model(jax.random.key(0))) == params_sha256(task.model(jax.random.key(0)))


def test_no_task() -> None:
    with pytest.raises(ArgumentError, match=r"task: expected a pjax_prim.training.Task, given \[\]"):
        train([])  # type: ignore[arg-type]
