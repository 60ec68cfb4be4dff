"""nanoGPT's recipe as a task, and files of tasks that say how they are trained."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pjax_prim.cli import main
from pjax_prim.data import load
from pjax_prim.data.text import Windows
from pjax_prim.errors import ArgumentError, DataError
from pjax_prim.tasks import TaskFile, built_in
from pjax_prim.training import TrainConfig
from pjax_prim.training.figures import first_within, peak_bytes
from pjax_prim.training.optimisers import make_schedule


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("the cat sat on the mat; " * 40)
    return tmp_path


def test_windows_begin_at_every_place() -> None:
    windows = Windows(np.arange(10) ** 2, 3)
    assert len(windows) == 7
    for index in range(7):
        tokens, following = windows[index]
        np.testing.assert_array_equal(tokens, np.arange(index, index + 3) ** 2)
        np.testing.assert_array_equal(following, np.arange(index + 1, index + 4) ** 2)
    with pytest.raises(IndexError):
        windows[7]
    assert windows.describe() != Windows(np.arange(10), 3).describe()
    with pytest.raises(DataError, match="a window of 3 tokens needs more than as many, found 3"):
        Windows(np.arange(3), 3)


def test_a_share_is_held_out(text: Path) -> None:
    data = load("text", text, length=8, held_out=0.1)
    assert len(data.test_x) == (960 - 864 - 1) // 8 and len(data.train_x) == 863 // 8
    with pytest.raises(ArgumentError, match="held_out: expected a share above 0 and below 1, given 1.0"):
        load("text", text, held_out=1.0)
    with pytest.raises(ArgumentError, match="held_out: only for text, given with digits"):
        load("digits", held_out=0.1)


def test_the_recipe(text: Path) -> None:
    file = built_in("nanogpt")
    config = file.train_config()
    assert (config.batches, config.method.solver, config.method.optimiser) == (2000, "displacement", "adamw")
    assert file.train_config("gradient").method.clip == 1 and file.train_config("jp").method.clip is None
    rate = make_schedule(config, 1e-3)
    np.testing.assert_allclose([rate(0), rate(100), rate(1050), rate(2000)], [1e-3 / 101, 1e-3, 5.5e-4, 1e-4])
    options = file.default_options()
    assert options.network.hidden == (128,) * 4 and options.network.batch_size == 12
    with pytest.raises(ArgumentError, match="validation: not for nanogpt, whose windows overlap, given 0.1"):
        file.make(file.read_options({"data_dir": str(text), "network": {"validation": 0.1}}, options))


def test_the_command_line_takes_what_the_task_says(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--data", "nanogpt", "--data-dir", str(text), "--length", "8", "--hidden", "8"]
    arguments += ["--warmup", "1", "--batches", "4", "--eval-every", "2", "--run-dir", str(text / "run")]
    assert main([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out.splitlines()[-1])
    saved = json.loads((text / "run" / "config.json").read_text())["train"]
    assert saved["method"]["optimiser"] == "adamw" and saved["method"]["final_learning_rate"] == 1e-4
    assert found["samples"] == 48 and found["samples_to_99"] in (24, 48) and found["peak_bytes"] > 1e7
    assert 0 < found["seconds_to_99"] <= found["seconds"] and found["test_bits"] > found["test_loss"] > 0
    assert re.search(r"test loss .*test bits", re.sub(r"\s+", " ", captured.err)) or "bits" in captured.err


def test_a_file_says_how_it_is_trained(tmp_path: Path) -> None:
    path = tmp_path / "some.py"
    path.write_text(
        "from pjax_prim.training import Method, TrainConfig\n"
        "def task(): ...\n"
        "def train_config(solver):\n"
        "    return TrainConfig(method=Method(solver=solver), batches=7)\n"
    )
    assert TaskFile(path).train_config("adam").batches == 7
    assert TaskFile(path).train_config().method.solver == "displacement"
    with pytest.raises(ArgumentError, match="solver: expected one of ap, .*, given 'adm'"):
        TaskFile(path).train_config("adm")
    path.write_text("def train_config(solver): return {}\n")
    with pytest.raises(ArgumentError, match=r"train_config\(...\): expected a TrainConfig, given {}"):
        TaskFile(path).train_config()
    assert built_in("digits").train_config("ap") == TrainConfig()


def test_within_one_percent_of_the_best() -> None:
    assert first_within([0.5, 0.9, 0.898, 0.907]) == 1 and first_within([0.5, 0.9, 0.91]) == 2
    assert first_within([3.0, 2.01, None, 2.0], -1.0) == 1 and first_within([3.0, 2.1, 2.0], -1.0) == 2
    assert first_within([None]) is None
    # A log likelihood, and a step that went wrong.
    assert first_within([-0.5, -1.0, -0.99, -0.2], -1.0) == 1 and first_within([-3.0, -2.0]) == 1
    assert first_within([float("nan"), 0.5, float("inf")]) == 1 and first_within([0.0, 0.0]) == 0


def test_peak_memory_is_that_of_the_process_alone() -> None:
    """Not of the one that started it."""
    held = np.ones(3 * 10**8, np.uint8)
    code = "from pjax_prim.training.figures import peak_bytes; print(peak_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 5e7 < int(done.stdout) < peak_bytes() and held.all() and peak_bytes() > 3e8
