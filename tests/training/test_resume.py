"""A run that is stopped, killed or damaged and resumed is the run that was not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from pjax_prim.checkpoint import Retention, SavePolicy, restore_params
from pjax_prim.cli import main
from pjax_prim.data import Shuffled, load
from pjax_prim.errors import ArgumentError, CheckpointError, NonFiniteError, RunError
from pjax_prim.training import RunFolder, Saving, evaluate_run, params_sha256, train

from .runs import EVERY, interrupted, made, outcome, run

SMALL = {"hidden": (6,), "batch_size": 8, "batches": 3, "eval_every": 2, "seed": 3}
QUICK = {**SMALL, "solver": "adam", "batches": 5}

SOLVERS = [
    ({"solver": "ap"}, False),
    ({"solver": "ap", "form": "expanded"}, True),
    ({"solver": "ar"}, True),
    ({"solver": "dr", "relaxation": 0.7}, False),
    ({"solver": "dm"}, True),
    ({"solver": "cp"}, True),
    ({"solver": "cp", "form": "expanded"}, True),
    ({"solver": "cdr"}, True),
    ({"solver": "ep", "acceleration": "restarted"}, True),
    ({"solver": "cp", "acceleration": "anderson"}, True),
    ({"solver": "cp", "metric": "full-outputs"}, True),
    ({"solver": "adam"}, False),
    ({"solver": "sgd"}, True),
]


@pytest.mark.parametrize(
    "fields", [pytest.param(fields, marks=[pytest.mark.slow] if slow else []) for fields, slow in SOLVERS]
)
@pytest.mark.usefixtures("shared_compilation")
def test_resumed_in_the_middle_of_a_batch(fields: dict, tmp_path) -> None:
    config = {**SMALL, "steps_per_batch": 4, "chunk_steps": 2, "dropout": 0.2, **fields}
    whole = RunFolder(tmp_path / "whole")
    expected = outcome(run(config, whole, saving=EVERY), whole)
    folder = RunFolder(tmp_path / "stopped")
    result = interrupted(config, folder, polls=3)  # half of batch 2 is done
    assert outcome(result, folder) == expected
    stopped = folder.checkpoints.info(3)
    assert (stopped["batch"], stopped["start"]) == (1, 2)
    assert any(name.startswith("solver.") for name in stopped["arrays"])
    assert not any(name.startswith("solver.") for name in folder.checkpoints.info(4)["arrays"])


def test_chunks_change_nothing(tmp_path) -> None:
    config = {**QUICK, "steps_per_batch": 5}
    assert params_sha256(run(config).model) == params_sha256(run({**config, "chunk_steps": 2}).model)


@pytest.mark.parametrize("polls", [1, 3, 5])
def test_resumed_between_batches(polls: int, tmp_path) -> None:
    config = {**QUICK, "average": 0.5, "track_best": True}
    whole = RunFolder(tmp_path / "whole")
    expected = outcome(run(config, whole), whole)
    folder = RunFolder(tmp_path / "stopped")
    saving = Saving(SavePolicy(seconds=None), Retention(latest=1))
    assert outcome(interrupted(config, folder, polls, saving), folder) == expected
    # A run that is finished stays as it is; a longer one goes on from there.
    assert outcome(run(config, folder, resume=True), folder) == expected
    longer = {**config, "batches": 7}
    rows = run(longer, folder, resume=True).rows
    assert [row["batch"] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert folder.load_config() == made(longer)[1]
    with pytest.raises(CheckpointError, match="batches: 7 are done in the checkpoint, 5 asked for here"):
        run(config, folder, resume=True)


def test_a_schedule_fixes_the_length_of_a_run(tmp_path) -> None:
    config = {**QUICK, "solver": "adam", "schedule": "cosine", "warmup": 1}
    whole = RunFolder(tmp_path / "whole")
    expected = outcome(run(config, whole, saving=EVERY), whole)
    folder = RunFolder(tmp_path / "stopped")
    assert outcome(interrupted(config, folder, polls=2), folder) == expected
    with pytest.raises(CheckpointError, match="batches: "):
        run({**config, "batches": 7}, folder, resume=True)


def test_averaged_and_best_parameters(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    result = run({**QUICK, "average": 0.5, "track_best": True, "eval_every": 1}, folder)
    best = max(row["test_accuracy"] for row in result.rows)
    task = result.task
    assert evaluate_run(task, folder, which="best")["test_accuracy"] == best
    for which in (None, "averaged"):
        found = evaluate_run(task, folder, which=which)
        assert found["test_accuracy"] == result.rows[-1]["test_accuracy"]
        assert (
            found["params_sha256"]
            == params_sha256(result.model)
            == params_sha256(folder.load_model(result.model))
        )
    assert evaluate_run(task, folder, which="last")["params_sha256"] == params_sha256(result.state.model)
    assert params_sha256(result.state.model) != params_sha256(result.model)
    # The average by hand, from checkpoints of every batch.
    other = RunFolder(tmp_path / "other")
    keep = Saving(SavePolicy(every=1), Retention(latest=9))
    model = run({**QUICK, "average": 0.5, "batches": 2}, other, saving=keep).model
    expected = made(QUICK)[0].make_model(jax.random.key(3))[0]
    for step, decay in ((1, 1 / 10), (2, 2 / 11)):  # at first over all so far
        after = restore_params(other.path, model, step=step, which="last")
        expected = jax.tree.map(
            lambda old, new, decay=decay: decay * old + (1 - decay) * new, expected, after
        )
    for averaged in (
        model,
        restore_params(other.path, model),
        restore_params(other.path, model, which="averaged"),
    ):
        for a, b in zip(jax.tree.leaves(averaged), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_run_that_ends_at_a_checkpoint_is_evaluated_there(tmp_path) -> None:
    whole, folder = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "longer")
    expected = outcome(run({**QUICK, "batches": 3}, whole, saving=EVERY), whole)
    run({**QUICK, "batches": 5}, folder, saving=EVERY)
    for step in (4, 5):
        shutil.rmtree(folder.checkpoints.step_path(step))
    ended = run({**QUICK, "batches": 3}, folder, resume=True, saving=EVERY)
    assert outcome(ended, folder) == expected and "test_accuracy" in ended.summary()


def test_the_best_parameters_on_a_mesh_are_copies(tmp_path) -> None:
    fields = {**QUICK, "mesh": "data=8", "track_best": True, "eval_every": 1}
    result = run(fields, RunFolder(tmp_path), saving=EVERY)
    best = max(row["test_accuracy"] for row in result.rows)
    assert evaluate_run(result.task, RunFolder(tmp_path), which="best")["test_accuracy"] == best


def test_metrics_are_cut_to_the_checkpoint(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    expected = outcome(run(QUICK, folder, saving=EVERY), folder)
    for step in (4, 5):
        shutil.rmtree(folder.checkpoints.step_path(step))
    with folder.metrics.open("a") as file:
        file.write('{"batch": 6, "lo')  # killed in the middle of a line
    assert outcome(run(QUICK, folder, resume=True, saving=EVERY), folder) == expected
    lines = folder.metrics.read_text().splitlines(keepends=True)
    folder.metrics.write_text("".join(lines[:1] + lines[2:]))
    with pytest.raises(RunError, match="metrics.jsonl: line 2: expected the row of batch 2, found none"):
        run(QUICK, folder, resume=True)


def test_every_changed_field_is_listed(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    run(QUICK, folder)
    with pytest.raises(CheckpointError) as error:
        run({**QUICK, "solver": "dr", "hidden": (7,), "seed": 4, "eval_every": 1}, folder, resume=True)
    assert [line.strip() for line in str(error.value).splitlines()[1:]] == [
        "hidden: [6] in the checkpoint, [7] here",
        "solver: 'adam' in the checkpoint, 'dr' here",
        "seed: 3 in the checkpoint, 4 here",
    ]
    task, config = made(QUICK)
    digits = load("digits")
    other = replace(
        task, train=lambda seed: Shuffled((digits.train_x[:-1] + 1, digits.train_y[:-1]), 8, seed=seed)
    )
    with pytest.raises(
        CheckpointError, match=r"0: \['float32', 1437, 64\] in the checkpoint, \['float32', 1436, 64\] here"
    ) as error:
        train(other, config, folder, resume=True)
    assert "sha256: " in str(error.value)


def test_damaged_checkpoint(tmp_path, capsys) -> None:
    folder = RunFolder(tmp_path)
    expected = outcome(run(QUICK, folder, saving=EVERY), folder)
    [file] = list((folder.checkpoints.step_path(5) / "state" / "d").iterdir())
    file.write_bytes(file.read_bytes()[:-1])
    arguments = [
        "train",
        "--run-dir",
        str(tmp_path),
        "--checkpoint-every",
        "1",
        "--keep-latest",
        "3",
        "--json",
    ]
    assert main([*arguments, "--resume"]) == 2
    message = capsys.readouterr().err
    assert f"{file}: damaged: expected " in message and "older checkpoints: 3, 4. " in message
    assert "--resume-older" in message and folder.checkpoints.steps() == [3, 4, 5]
    with pytest.raises(CheckpointError, match="damaged"):
        evaluate_run(made(QUICK)[0], folder)
    assert evaluate_run(made(QUICK)[0], folder, step=4)
    assert main([*arguments, "--resume-older"]) == 0
    captured = capsys.readouterr()
    assert "set aside: " in captured.err and "continues after batch 4" in captured.err
    assert json.loads(captured.out)["params_sha256"] == expected[0]
    assert folder.metrics.read_bytes() == expected[1]
    assert folder.checkpoints.steps() == [3, 4, 5] and folder.checkpoints.choose() == 5
    assert (folder.checkpoints.path / "5.damaged").is_dir()


def test_resume_without_a_run_or_a_checkpoint_begins(tmp_path) -> None:
    said: list[str] = []
    folder = RunFolder(tmp_path / "run")
    result = run(QUICK, folder, resume=True, say=said.append)
    expected = outcome(result, folder)
    assert said == [f"{folder.path}: holds no run yet; it begins"]
    shutil.rmtree(folder.checkpoints.path)
    assert outcome(run(QUICK, folder, resume=True, say=said.append), folder) == expected
    assert said[1:] == [f"{folder.path}: holds no checkpoint; the run starts again"]


def test_resume_errors(tmp_path, capsys) -> None:
    with pytest.raises(ArgumentError, match="resume: needs the folder of the run"):
        run(QUICK, resume=True)
    with pytest.raises(ArgumentError, match="overwrite: not together with resume"):
        run(QUICK, RunFolder(tmp_path), resume=True, overwrite=True)
    assert main(["train", "--resume"]) == 2
    assert "--resume: needs the folder of the run, --run-dir" in capsys.readouterr().err


def test_non_finite_run_keeps_the_model_before(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    config = {
        **QUICK,
        "solver": "sgd",
        "learning_rate": 1e38,
        "batches": 20,
        "steps_per_batch": 2,
        "chunk_steps": 1,
    }
    for resume in (False, True):
        with pytest.raises(NonFiniteError, match="the model before it is saved"):
            run(config, folder, resume=resume, saving=Saving(SavePolicy(seconds=0)))
        saved = restore_params(folder.path, run({**config, "learning_rate": 1e-3, "batches": 1}).model)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(saved))
        assert params_sha256(saved) == evaluate_run(made(config)[0], folder)["params_sha256"]


def test_init_from(tmp_path, capsys) -> None:
    first = RunFolder(tmp_path / "first")
    model = run(QUICK, first).model
    exported = tmp_path / "model.eqx"
    assert main(["export", str(first.path), "--to", str(exported), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["params_sha256"] == params_sha256(model)
    tuned = [
        run({**QUICK, "batches": 1, "seed": 9}, init_from=source).model for source in (first.path, exported)
    ]
    assert params_sha256(tuned[0]) == params_sha256(tuned[1]) != params_sha256(model)
    with pytest.raises(
        CheckpointError, match=r"layers.0.weight: float32\[6, 64\] in the checkpoint, float32\[7"
    ):
        run({**QUICK, "hidden": (7,)}, init_from=first.path)


def test_inspect(tmp_path, capsys) -> None:
    folder = RunFolder(tmp_path)
    run(QUICK, folder, saving=EVERY)
    assert main(["inspect", str(tmp_path), "--verify", "--json"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report["config"]["method"]["solver"] == "adam"
    assert [entry["step"] for entry in report["checkpoints"]] == [3, 4, 5]
    newest = report["checkpoints"][-1]
    assert newest["arrays"]["model.layers.0.weight"] == {"shape": [6, 64], "dtype": "float32"}
    assert newest["bytes"] > 6 * 64 * 4 and newest["problem"] is None and "jax" in newest["versions"]
    assert newest["metrics"] == json.loads(folder.metrics.read_text().splitlines()[-1])
    assert "memory.0.mu.layers.0.weight" in captured.err and "verified" in captured.err
    (folder.checkpoints.step_path(5) / "checkpoint.json").unlink()
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    newest = json.loads(capsys.readouterr().out)["checkpoints"][-1]
    assert newest["step"] == 5 and "cannot be read" in newest["problem"]
    assert main(["inspect", str(tmp_path), "--verify", "--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["checkpoints"][-1] == newest
    assert "error: 1 of 3 checkpoints are damaged; " in captured.err and "checkpoint.json" in captured.err


#
# Real processes
#


def command(run_dir: Path, *more: str) -> list[str]:
    program = "import sys; from pjax_prim.cli import main; sys.exit(main(sys.argv[1:]))"
    fields = "--solver adam --hidden 6 --batch-size 8 --batches 60 --eval-every 20 --seed 3".split()
    saving = "--checkpoint-every 2 --keep-latest 2".split()
    return [
        sys.executable,
        "-c",
        program,
        "train",
        *fields,
        *saving,
        "--run-dir",
        str(run_dir),
        "--json",
        *more,
    ]


def start(run_dir: Path) -> subprocess.Popen:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "0"}
    return subprocess.Popen(
        command(run_dir, "--resume"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finish(run_dir: Path) -> str:
    process = start(run_dir)
    out, err = process.communicate()
    assert process.returncode == 0, err
    sha: str = json.loads(out.splitlines()[-1])["params_sha256"]
    return sha


def batches(run_dir: Path) -> int:
    path = RunFolder(run_dir).metrics
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_and_resume(tmp_path: Path, kills: int, seed: int) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected = finish(whole)
    rng = np.random.default_rng(seed)
    folder = RunFolder(killed)
    finished = 0
    for _ in range(kills):
        if batches(killed) >= 50:  # room for more kills
            assert finish(killed) == expected
            shutil.rmtree(killed)
            finished = 0
        process = start(killed)
        # Most kills between the first and the last save, some while the program starts.
        target = batches(killed) + int(rng.integers(0, 12))
        while process.poll() is None and rng.random() > 0.002 and batches(killed) < target:
            time.sleep(0.01)
        time.sleep(float(rng.uniform(0, 0.05)))
        process.kill()
        process.communicate()
        steps = folder.checkpoints.steps()
        if finished or steps:
            assert folder.checkpoints.choose() >= finished  # never older than the last finished one
            finished = steps[-1]
    assert finish(killed) == expected
    assert RunFolder(whole).metrics.read_bytes() == folder.metrics.read_bytes()
    assert not [path for path in folder.checkpoints.path.iterdir() if "tmp" in path.name]


# Killed once, it is in test_task_files.py.
@pytest.mark.slow
def test_killed_three_times(tmp_path) -> None:
    kill_and_resume(tmp_path, kills=3, seed=0)


@pytest.mark.slow
def test_killed_fifty_times(tmp_path) -> None:
    kill_and_resume(tmp_path, kills=50, seed=1)


def test_sigterm_saves_and_exits_with_75(tmp_path) -> None:
    process = start(tmp_path)
    while process.poll() is None and batches(tmp_path) < 3:
        time.sleep(0.01)
    second = start(tmp_path)
    process.send_signal(signal.SIGSTOP)  # so that it cannot end before the second one looks
    _, err = second.communicate()
    assert second.returncode == 2 and f"in use by process {process.pid} on " in err
    process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 75, err
    folder = RunFolder(tmp_path)
    step = folder.checkpoints.choose()
    assert f"asked to stop: saved after batch {step};" in err
    assert batches(tmp_path) == step == folder.checkpoints.info(step)["batch"]
