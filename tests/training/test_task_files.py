"""Tasks in files, in every command: the example of `docs/tasks.md`, also in real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from pjax_prim.cli import main
from pjax_prim.tasks import TaskFile
from pjax_prim.training import RunFolder, params_sha256

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
