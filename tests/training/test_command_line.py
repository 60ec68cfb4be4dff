import io
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from pjax_prim.cli import main
from pjax_prim.cli.options import print_table
from pjax_prim.models import SEQUENCE_NETWORKS
from pjax_prim.training import RunFolder

SMALL = "--solver ap --hidden 16 --batch-size 64 --batches 3 --steps-per-batch 2".split()


def last_json(text: str) -> dict:
    return json.loads(text.splitlines()[-1])


def test_train_then_eval(tmp_path, capsys) -> None:
    run_dir = str(tmp_path / "run")
    assert main(["train", *SMALL, "--run-dir", run_dir, "--json"]) == 0
    captured = capsys.readouterr()
    trained = last_json(captured.out)
    assert len(captured.out.splitlines()) == 1 and "test accuracy" in captured.err
    assert {"test_accuracy", "train_accuracy", "batches", "seconds", "gap", "params_sha256"} <= trained.keys()
    assert trained["batches"] == 3 and trained["gap"] > 0

    assert main(["eval", "--run-dir", run_dir, "--json"]) == 0
    evaluated = last_json(capsys.readouterr().out)
    assert evaluated == {name: trained[name] for name in evaluated}

    assert main(["train", *SMALL, "--run-dir", run_dir]) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert main(["train", *SMALL, "--run-dir", run_dir, "--overwrite", "--solver", "adam", "--json"]) == 0
    assert last_json(capsys.readouterr().out)["gap"] is None


@pytest.mark.parametrize(
    "model", [pytest.param(x, marks=pytest.mark.slow if x != "rnn" else ()) for x in SEQUENCE_NETWORKS]
)
def test_text(model: str, tmp_path, capsys) -> None:
    (tmp_path / "text.txt").write_text("the cat sat on the mat; " * 40)
    run_dir = str(tmp_path / "run")
    arguments = ["--data", "text", "--data-dir", str(tmp_path), "--length", "9"]
    arguments += ["--model", model, "--hidden", "8"]
    small = ["--batch-size", "4", "--batches", "2", "--steps-per-batch", "2"]
    assert main(["train", *arguments, *small, "--run-dir", run_dir, "--json"]) == 0
    captured = capsys.readouterr()
    trained = last_json(captured.out)
    assert trained["gap"] > 0 and 0 < trained["baseline_accuracy"] < 1 and "bigram table" in captured.err
    assert trained["test_bits"] == pytest.approx(trained["test_loss"] / math.log(2))
    assert trained["test_perplexity"] == pytest.approx(math.exp(trained["test_loss"]))
    assert main(["eval", "--run-dir", run_dir, "--json"]) == 0
    assert last_json(capsys.readouterr().out)["test_accuracy"] == trained["test_accuracy"]
    assert main(["graph", *arguments, "--batch-size", "2"]) == 0
    assert "cross_entropy" in capsys.readouterr().out


def test_eval_and_table_on_standard_output(tmp_path, capsys) -> None:
    assert main(["train", *SMALL, "--solver", "sgd", "--run-dir", str(tmp_path)]) == 0
    assert "digits, mlp, sgd: 2 steps a batch" in capsys.readouterr().out
    assert main(["eval", "--run-dir", str(tmp_path)]) == 0
    assert "test accuracy" in capsys.readouterr().out


def test_graph(capsys) -> None:
    assert main(["graph", "--model", "mlp", "--hidden", "8", "8", "--skip", "--json"]) == 0
    captured = capsys.readouterr()
    size = last_json(captured.out)
    assert size["parameters"] == 6 and size["constraint_nodes"] >= 6 and size["copies"] > 64 * 8
    assert "sum_relu" in captured.err and "cross_entropy" in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("trian", "invalid choice: 'trian' (choose from"),
        ("--no-such-option", "the following arguments are required: COMMAND"),
        ("", "the following arguments are required: COMMAND"),
    ],
)
def test_no_command(arguments: str, message: str, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments.split())
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --no-such-option", "Unrecognized options: --no-such-option"),
        ("train --batch 3", "Unrecognized options: --batch, 3 Perhaps you meant: --batch"),
        ("train --solver newton", "invalid choice 'newton' for argument '--solver'. Expected one of ('ap', "),
        ("train --data imagenet", "data: expected one of digits, mnist, fashion-mnist, "),
        ("train --batches many", "invalid literal for int() with base 10: 'many'"),
        (
            "train --run-dir s3://bucket/run",
            "--run-dir: s3://bucket/run: expected a local path, or one on gs://",
        ),
        ("eval --run-dir s3://bucket/run", "s3://bucket/run: expected a local path, or one on gs://"),
        ("train absent.py", "absent.py: no such file"),
        ("train absent.py --data mnist", "--data: names a benchmark, and absent.py is given"),
        ("eval", "--run-dir: needs the folder of the run"),
        ("train --batches -1", "batches: expected a whole number of at least 1, given -1"),
        ("train --beta 1", "beta: only for solver dm, given with displacement"),
        ("train --solver dr --relaxation 7", "relaxation: "),
        ("train --solver dm --beta 0", "beta: "),
        ("train --data mnist", "data_dir: mnist needs the folder of its files"),
        ("train --data mnist --data-dir absent", "absent: no such folder"),
        ("graph --hidden 0", "hidden: expected widths of at least 1"),
        ("train --length 9", "Unrecognized options: --length, 9"),
        ("train --data text --model cnn", "data_dir: text needs the folder of its files"),
        ("bench --model transformer --hidden 6 --no-skip", "hidden: expected equal multiples of 4"),
        ("eval --run-dir absent", "absent: holds no run"),
    ],
)
def test_bad_input(arguments: str, message: str, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split()) == 2
    captured = capsys.readouterr()
    assert f"pjax-prim: error: {message}" in captured.err and not captured.out
    assert not list(tmp_path.iterdir())


def test_non_finite_training_exits_with_1(tmp_path, capsys) -> None:
    arguments = ["train", *SMALL, "--solver", "sgd", "--learning-rate", "1e38", "--run-dir", str(tmp_path)]
    assert main([*arguments, "--batches", "20"]) == 1
    assert "not finite. Training stopped" in capsys.readouterr().err
    assert (tmp_path / "model.eqx").exists()


def test_installed_command(tmp_path) -> None:
    command = Path(sys.executable).parent / "pjax-prim"
    done = subprocess.run(
        [command, "train", *SMALL, "--solver", "adam", "--json"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert Path(tmp_path / last_json(done.stdout)["run_dir"] / "curves.png").exists()


def test_tables_keep_their_numbers() -> None:
    table = Table()
    for number in range(12):
        table.add_column(f"validation figure {number}")
    table.add_row(*(f"{number}.23456%" for number in range(12)))
    out = Console(file=io.StringIO(), width=80)
    print_table(out, table)
    text = out.file.getvalue()
    assert all(f"{number}.23456%" in text for number in range(12)) and "figure" in text


def test_seeds(capsys) -> None:
    few = [*SMALL, "--validation", "0.1"]
    assert main(["seeds", *few, "--seeds", "0", "5", "--json"]) == 0
    captured = capsys.readouterr()
    figures = last_json(captured.out)
    assert figures["seeds"] == [0, 5] and len(figures["by_seed"]["test_accuracy"]) == 2
    assert figures["deviation"] >= 0
    assert "seeds 0, 5" in captured.err and "validation" in captured.err and "±" in captured.err
    assert main(["seeds", *few, "--seeds", "2", "2"]) == 2
    assert "seeds: expected different numbers of at least 0, given [2, 2]" in capsys.readouterr().err
    assert main(["seeds", *SMALL, "--seeds", "-1"]) == 2
    assert "--seeds: expected numbers of at least 0, given [-1]" in capsys.readouterr().err


NO_SPACE = "pjax-prim: error: standard output: No space left on device"


@pytest.mark.parametrize(
    ("shell", "status", "message"),
    [
        ("{} > /dev/full", 2, NO_SPACE),
        *(
            pytest.param(*row, marks=pytest.mark.slow)
            for row in (
                ("{} >&- 2>&-", 0, ""),
                ("{} | true", 0, ""),
                ("{} --tracker json-lines | true", 0, ""),
                ("{} --tracker json-lines > /dev/full", 2, NO_SPACE),
                ("{} 2>&1 | true", 0, ""),
                ("{} 2> /dev/full", 0, ""),
            )
        ),
    ],
)
def test_results_that_nobody_takes(shell: str, status: int, message: str, tmp_path: Path) -> None:
    """The run is whole, whoever listens."""
    command = (
        f"{Path(sys.executable).parent / 'pjax-prim'} train {' '.join(SMALL)} --solver sgd --run-dir run"
    )
    script = f"set -o pipefail; {shell.format(command)}"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert "Traceback" not in done.stderr and message in done.stderr
    assert all((tmp_path / "run" / name).exists() for name in ("model.eqx", "curves.png"))
    assert done.returncode == status, done.stderr


@pytest.mark.parametrize(
    ("shell", "status", "message"),
    [("{} > /dev/full", 2, NO_SPACE), ("{} | true", 0, ""), ("{} >&-", 0, "")],
)
def test_a_version_that_nobody_takes(shell: str, status: int, message: str) -> None:
    command = f"{Path(sys.executable).parent / 'pjax-prim'} --version"
    script = f"set -o pipefail; {shell.format(command)}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (status, message)


@pytest.mark.parametrize("where", ["given", pytest.param("around", marks=pytest.mark.slow)])
def test_a_run_folder_that_the_locale_cannot_name(where: str, tmp_path: Path) -> None:
    name = "\u00e9t\u00e9"
    around = tmp_path / name if where == "around" else tmp_path
    around.mkdir(exist_ok=True)
    place = ["--run-dir", name] if where == "given" else []
    done = subprocess.run(
        [Path(sys.executable).parent / "pjax-prim", "train", *SMALL, *place],
        cwd=around, capture_output=True, text=True,
        env={**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"},
    )  # fmt: skip
    assert (
        done.returncode == 2 and "has characters that this locale's encoding, ascii, has not" in done.stderr
    )
    assert not list(around.iterdir())


def test_strict_settings_of_the_environment(tmp_path: Path) -> None:
    """They are for a user's own code: what a command does itself goes on."""
    settings = {
        "JAX_TRANSFER_GUARD": "disallow",
        "JAX_NUMPY_DTYPE_PROMOTION": "strict",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
    }
    done = subprocess.run(
        [Path(sys.executable).parent / "pjax-prim", "train", *SMALL, "--run-dir", "run"],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, **settings},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def interrupted(process: subprocess.Popen, *times: float) -> None:
    """Sends SIGINT after each of these times, and checks how the process ends."""
    for seconds in times:
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LIMIT)
    lines = [line for line in err.splitlines() if not line.startswith(("compiling", "training"))]
    assert (process.returncode, lines) == (130, ["pjax-prim: interrupted"]), (times, err)


LIMIT = 120  # seconds, on a busy machine
ENDLESS = "train --solver adam --hidden 8 --batches 1000000 --checkpoint-every 1 --run-dir".split()


@pytest.fixture
def start_endless() -> Iterator[Callable[[Path], subprocess.Popen]]:
    """Starts runs in a folder; none of them outlives the test."""
    started: list[subprocess.Popen] = []

    def start(folder: Path) -> subprocess.Popen:
        command = [Path(sys.executable).parent / "pjax-prim", *ENDLESS, str(folder)]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        started.append(
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
            )
        )
        return started[-1]

    yield start
    for process in started:
        with process:
            process.kill()


def wait_until(process: subprocess.Popen, reached: Callable[[], bool]) -> None:
    until = time.monotonic() + LIMIT
    while not reached():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at what a process has loaded")
@pytest.mark.parametrize("package", ["numpy", pytest.param("jaxlib", marks=pytest.mark.slow), "tensorstore"])
def test_interrupted_while_it_imports(
    package: str, tmp_path: Path, start_endless: Callable[[Path], subprocess.Popen]
) -> None:
    process = start_endless(tmp_path / "run")
    maps = Path(f"/proc/{process.pid}/maps")
    wait_until(process, lambda: f"/{package}/" in maps.read_text())
    interrupted(process, 0.0)


@pytest.mark.parametrize("times", [pytest.param((0.0,), marks=pytest.mark.slow), (0.3,)])
def test_interrupted_while_it_compiles(
    times: tuple[float, ...], tmp_path: Path, start_endless: Callable[[Path], subprocess.Popen]
) -> None:
    process = start_endless(tmp_path / "run")
    wait_until(process, RunFolder(tmp_path / "run").config.exists)
    interrupted(process, *times)


SLOW_TIMES = [pytest.param(times, marks=pytest.mark.slow) for times in ((0.0,), (0.0, 0.0))]


@pytest.mark.parametrize("times", [*SLOW_TIMES, (0.0, 0.02)])
def test_interrupted_while_it_trains_and_saves(
    times: tuple[float, ...], tmp_path: Path, start_endless: Callable[[Path], subprocess.Popen]
) -> None:
    process = start_endless(tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    wait_until(process, lambda: bool(folder.checkpoints.steps()))
    interrupted(process, *times)
    step = folder.checkpoints.choose()  # whole, whatever was being saved
    assert folder.checkpoints.info(step)["batch"] == step


@pytest.mark.slow
def test_interrupted_at_any_moment(tmp_path: Path, start_endless: Callable[[Path], subprocess.Popen]) -> None:
    rng = random.Random(0)
    for number in range(40):
        second = [rng.choice((0.0, 0.01, 0.1))] if number % 2 else []
        interrupted(start_endless(tmp_path / str(number)), rng.uniform(0.5, 6), *second)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a tmpfs")
@pytest.mark.parametrize(
    ("size", "message"),
    [
        pytest.param("4k", "config.json: cannot be written", marks=pytest.mark.slow),
        pytest.param("40k", "checkpoint 1 could not be written", marks=pytest.mark.slow),
        ("300k", "checkpoints: checkpoint"),
        pytest.param("600k", "checkpoints: checkpoint", marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_is_one_line(
    size: str, message: str, tmp_path: Path, start_endless: Callable[[Path], subprocess.Popen]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk]).returncode:
        pytest.skip("mounting needs rights")
    try:
        process = start_endless(disk / "run")
        _, err = process.communicate(timeout=LIMIT)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
    lines = [line for line in err.splitlines() if not line.startswith(("compiling", "training"))]
    assert process.returncode == 2 and len(lines) == 1, err
    assert lines[0].startswith("pjax-prim: error: ") and message in lines[0]
    assert "(No space left on device)" in lines[0]
