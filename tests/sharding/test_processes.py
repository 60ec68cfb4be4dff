"""`pjax-prim train` in several processes of two CPU devices each."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from pjax_prim.sharding import make_mesh
from pjax_prim.sharding.processes import Group, distribute, from_local_rows, local_rows, start, whole

from pjax_prim.cli import main
from pjax_prim.errors import ArgumentError, LostProcessError, ProcessError
from pjax_prim.tasks import TaskFile
from pjax_prim.training import TrainConfig, train
from tests.training.runs import run as run_alone

ROOT = Path(__file__).parent.parent.parent
SMALL = "--solver ap --hidden 8 --batch-size 16 --batches 2 --steps-per-batch 2 --json".split()
CONFIG = {"hidden": (8,), "batch_size": 16, "batches": 2, "steps_per_batch": 2}
BOOT = "/proc/sys/kernel/random/boot_id"
LIMIT = 240  # seconds, on a busy machine
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


class Run:
    """Processes of one run, each with its own options; none is left over."""

    def __init__(
        self,
        folder: Path,
        options: Sequence[Sequence[str]],
        timeout: float = 100,
        environment: Mapping[str, str] = ENVIRONMENT,
        slices: Sequence[int] = (),
    ):
        port = free_port()
        prefixes = [_in_slice(folder, number) for number in slices] or [[]] * len(options)
        self.started = [
            subprocess.Popen(
                [
                    *prefix, Path(sys.executable).parent / "pjax-prim", "train", *own,
                    *([] if "--run-dir" in own else ["--run-dir", str(folder / "run")]),
                    "--coordinator", f"localhost:{port}", "--num-processes", str(len(options)),
                    "--process-id", str(number), "--process-timeout", str(timeout),
                ],
                cwd=folder, env={**os.environ, **environment}, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
            for number, (own, prefix) in enumerate(zip(options, prefixes, strict=True))
        ]  # fmt: skip

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def results(self) -> Iterator[tuple[int, str, str]]:
        """Exit status, standard output and standard error of each."""
        for process in self.started:
            out, err = process.communicate(timeout=LIMIT)
            yield process.returncode, out, err


def _in_slice(folder: Path, number: int) -> list[str]:
    """What starts a process whose devices are of a slice.

    CPU devices are of one slice where their hosts were started at the same time, which is a file that the
    process sees another one in the place of.
    """
    host = folder / f"host{number}"
    host.write_text(f"0000000{number}-0000-4000-8000-000000000000\n")
    return ["unshare", "--mount", "sh", "-c", f'mount --bind "$0" {BOOT} && exec "$@"', str(host)]


def check_training(folder: Path, processes: int, mesh: str) -> None:
    with Run(folder, [[*SMALL, "--mesh", mesh]] * processes) as run:
        results = list(run.results())
    assert [status for status, *_ in results] == [0] * processes, results
    # Gloo greets on standard output; the last line is the result, of the first process only.
    lines = [out.splitlines() for _, out, _ in results]
    assert not any(line.startswith("{") for other in lines[1:] for line in other)
    summary = json.loads(lines[0][-1])
    alone = run_alone(CONFIG)
    assert summary["gap"] == pytest.approx(alone.rows[-1]["gap"], rel=1e-4)
    assert summary["test_accuracy"] == pytest.approx(alone.rows[-1]["test_accuracy"], abs=0.01)
    assert len((folder / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    # The saved model is whole, and one process reads it.
    assert main(["eval", "--run-dir", str(folder / "run"), "--json"]) == 0


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    check_training(tmp_path, 2, "fsdp=2,model=2")


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["data=-1", "data=2,model=4", "data=2,fsdp=4"])
def test_four_processes_train_as_one(tmp_path: Path, mesh: str) -> None:
    check_training(tmp_path, 4, mesh)


@pytest.mark.slow
def test_a_run_of_two_slices_goes_on_with_one(tmp_path: Path) -> None:
    allowed = [*_in_slice(tmp_path, 0), "true"]
    if subprocess.run(allowed, capture_output=True, check=False).returncode:
        pytest.skip("mounts a file, which is not allowed here")
    first = [*SMALL, "--batches", "1", "--mesh", "data=2,dcn.data=2,fsdp=4"]
    with Run(tmp_path, [first] * 4, slices=(0, 0, 1, 1)) as run:
        results = list(run.results())
    assert [status for status, *_ in results] == [0] * 4, results
    then = [*SMALL, "--mesh", "fsdp=4", "--resume"]
    with Run(tmp_path, [then] * 2, slices=(0, 0)) as run:
        results = list(run.results())
    assert [status for status, *_ in results] == [0] * 2, results
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    alone = run_alone(CONFIG)
    assert [row["gap"] for row in rows] == pytest.approx([row["gap"] for row in alone.rows], rel=1e-4)


@pytest.mark.slow
def test_slices_that_are_not_there(tmp_path: Path) -> None:
    with Run(tmp_path, [[*SMALL, "--mesh", "data=4,dcn.data=2"]] * 2) as run:
        for status, _, err in run.results():
            assert status == 2 and "mesh: dcn: expected sizes that multiply to the 1 slices there are" in err


def test_differing_configurations_are_an_error_on_every_process(tmp_path: Path) -> None:
    with Run(tmp_path, [SMALL, [*SMALL, "--seed", "1"]]) as run:
        for status, out, err in run.results():
            assert status == 2 and not out
            assert "configuration differs between processes: seed: process 0 has 0, process 1 has 1" in err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_differing_folders_are_an_error_on_every_process(tmp_path: Path) -> None:
    with Run(tmp_path, [[*SMALL, "--run-dir", str(tmp_path / name)] for name in "ab"]) as run:
        for status, _, err in run.results():
            assert status == 2
            assert f"run_dir: process 0 has '{tmp_path / 'a'}', process 1 has '{tmp_path / 'b'}'" in err


@pytest.mark.slow
def test_two_processes_train_a_task_of_ones_own(tmp_path: Path) -> None:
    code = (ROOT / "docs" / "tasks.md").read_text().split("```python\n", 1)[1].split("```", 1)[0]
    (tmp_path / "waves.py").write_text(code)
    few = [str(tmp_path / "waves.py"), "--width", "8", "--batch-size", "16", "--batches", "3", "--json"]
    with Run(tmp_path, [[*few, "--mesh", "data=2,model=2"]] * 2) as run:
        (status, out, err), (other, *_) = run.results()
    assert status == other == 0, err
    found = json.loads(out.splitlines()[-1])
    file = TaskFile(tmp_path / "waves.py")
    alone = train(file.make(file.options(width=8, batch_size=16)), TrainConfig(batches=3))
    for name in ("loss", "test_loss", "test_error"):
        assert found[name] == pytest.approx(alone.rows[-1][name], rel=1e-4)


def test_bad_input_on_one_process_ends_all(tmp_path: Path) -> None:
    with Run(tmp_path, [SMALL, [*SMALL, "--beta", "1"]]) as run:
        (status_0, _, err_0), (status_1, _, err_1) = run.results()
    assert status_0 == status_1 == 2
    assert "error: options: process 1 stopped: beta: only for solver dm" in err_0
    assert "error: beta: only for solver dm" in err_1


@pytest.mark.slow
@pytest.mark.parametrize("lost", [1, 0])
@pytest.mark.parametrize("how", ["dies", "hangs", "is interrupted"])
def test_a_lost_process_ends_the_others(tmp_path: Path, how: str, lost: int) -> None:
    long = [*SMALL, "--batches", "1000000"]
    with Run(tmp_path, [long, long], timeout=40) as run:
        metrics = tmp_path / "run" / "metrics.jsonl"
        waited = time.monotonic() + LIMIT
        while not metrics.exists() or not metrics.read_text():
            assert time.monotonic() < waited and run.started[0].poll() is None
            time.sleep(0.2)
        sent = {"dies": signal.SIGKILL, "hangs": signal.SIGSTOP, "is interrupted": signal.SIGINT}[how]
        run.started[lost].send_signal(sent)
        _, err = run.started[1 - lost].communicate(timeout=LIMIT)
        assert run.started[1 - lost].returncode == 70, err
        if how == "is interrupted":
            _, own = run.started[lost].communicate(timeout=LIMIT)
            assert run.started[lost].returncode == 130 and own.splitlines()[-1] == "pjax-prim: interrupted"
        assert any(text in err.splitlines()[-1] for text in (
            "another process of this run is gone or cannot be reached",
            "waited 40 s for the others; at least one of them is gone or stuck",
            "process 0 of this run is gone: nothing answers at localhost:",
        )), err  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("service", ["1", "0"])
def test_asked_to_stop_with_and_without_the_service(tmp_path: Path, service: str) -> None:
    long = [*SMALL, "--batches", "1000000"]
    environment = {**ENVIRONMENT, "JAX_ENABLE_PREEMPTION_SERVICE": service}
    with Run(tmp_path, [long, long], environment=environment) as run:
        metrics = tmp_path / "run" / "metrics.jsonl"
        waited = time.monotonic() + LIMIT
        while not metrics.exists() or not metrics.read_text():
            assert time.monotonic() < waited and run.started[0].poll() is None
            time.sleep(0.2)
        run.started[1].send_signal(signal.SIGTERM)
        for status, _, err in run.results():
            assert status == 75 and "asked to stop: saved after batch" in err, err
    assert main(["inspect", str(tmp_path / "run"), "--verify", "--json"]) == 0


@pytest.mark.slow
def test_a_process_that_never_comes(tmp_path: Path) -> None:
    with Run(tmp_path, [SMALL, SMALL], timeout=5) as run:
        run.started[1].kill()
        _, err = run.started[0].communicate(timeout=LIMIT)
    assert run.started[0].returncode == 70
    assert err.splitlines()[-1].endswith("coordinator: process 1 of 2 did not come within 5 s")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, 2, 0, 0.0), "process_timeout: expected a number of seconds above 0, given 0.0"),
        (("localhost:1", 0, 0, 1.0), "num_processes: expected at least 1, given 0"),
        (("localhost:1", 2, 2, 1.0), "process_id: expected 0 to 1, given 2"),
    ],
)
def test_bad_groups(arguments: tuple, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        start(*arguments)


def test_alone() -> None:
    group = start(None, None, None, 3.0)
    assert group == Group(3.0) and group.is_first
    assert group.together("nothing", lambda: 5) == 5
    with group.waiting("nothing"), pytest.raises(jax.errors.JaxRuntimeError, match="Gloo"):
        raise jax.errors.JaxRuntimeError("Gloo: no other process that could be lost")


class Store:
    """A key-value store in which another process has answered, or not."""

    def __init__(self, answer: dict | None):
        self.values: dict[str, str] = {}
        self.answer = answer

    def key_value_set(self, key: str, value: str) -> None:
        self.values[key] = value

    def blocking_key_value_get(self, key: str, timeout: int) -> str:
        if key in self.values:
            return self.values[key]
        if self.answer is None:
            raise jax.errors.JaxRuntimeError(f"DEADLINE_EXCEEDED: after {timeout} ms")
        return json.dumps(self.answer)


def test_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    same = {"sha256": "0", "fields": {"a": 1, "b": [2]}, "error": None}
    store = Store(None)
    monkeypatch.setattr("pjax_prim.sharding.processes.coordination_client", lambda: store)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    group = Group(2.0)
    with pytest.raises(ProcessError, match="setup: no answer from process 1 of 2 within 2 s .DEADLINE"):
        group.together("setup", lambda: None)
    store.answer = same
    with pytest.raises(ProcessError, match=r"a: process 0 has 3, process 1 has 1; b: process 0 has None"):
        group.together("setup", lambda: None, lambda _: {"a": 3})
    store.answer = {**same, "error": "broken"}
    with pytest.raises(ProcessError, match="setup: process 1 stopped: broken"):
        group.together("setup", lambda: None)

    def fail() -> None:
        raise ArgumentError("mine")

    with pytest.raises(ArgumentError, match="mine"):
        group.together("setup", fail)
    with pytest.raises(LostProcessError, match=r"batch 3: another process .* is gone .*Gloo all-reduce"):
        with group.waiting("batch 3"):
            raise jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed: reset by peer")
    for other in ("RESOURCE_EXHAUSTED: out of memory", "INTERNAL: optimization_barrier of connection layers"):
        with pytest.raises(jax.errors.JaxRuntimeError, match=other), group.waiting("batch 3"):
            raise jax.errors.JaxRuntimeError(other)

    def divide() -> None:
        raise ZeroDivisionError("also what is no error of ours")

    written = len(store.values)
    with pytest.raises(ZeroDivisionError):
        group.together("setup", divide)
    assert "also what is no error of ours" in list(store.values.values())[-1]
    with pytest.raises(ProcessError):  # keys of a second group are others
        Group(2.0).together("setup", lambda: None)
    assert len(store.values) == written + 2


def test_a_wait_ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ended = threading.Event()
    monkeypatch.setattr("pjax_prim.sharding.processes.leave", ended.set)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with Group(0.05).waiting("batch 7"):
        assert ended.wait(60)
    assert "batch 7: process 0 waited 0.05 s for the others; at least one" in capsys.readouterr().err


def test_rows_of_a_process() -> None:
    mesh = make_mesh("data=4,model=2")
    sharding = NamedSharding(mesh, P("data", None))
    assert local_rows(sharding, 8).tolist() == list(range(8))
    x = np.arange(24.0).reshape(8, 3)
    placed = from_local_rows(sharding, x, 8)
    np.testing.assert_array_equal(whole(placed), x)
    assert placed.sharding == sharding
    spec = NamedSharding(mesh, P())
    for array in (jax.numpy.asarray(x), jax.random.key(3)):
        again = distribute(array, spec)
        assert again.sharding.is_equivalent_to(spec, again.ndim) and again.dtype == array.dtype


AOT = """
import sys
from pjax_prim.sharding.processes import start
from pjax_prim.cli import main
group = start(sys.argv[1], 2, int(sys.argv[2]), 200)
raise SystemExit(main(["aot", "--topology", "here", *sys.argv[3:]]))
"""
"""What `aot` does, in one of two processes."""


@pytest.mark.slow
def test_two_processes_take_compiled_steps(tmp_path: Path) -> None:
    """Steps that two processes have compiled are taken by two others, which compute the same."""
    mesh, address = ["--mesh", "data=2,model=2"], f"localhost:{free_port()}"
    options, file = [*SMALL, *mesh], tmp_path / "steps"
    compiling = [
        subprocess.Popen(
            [sys.executable, "-c", AOT, address, str(number), *options, "--save", f"{file}{number}"],
            cwd=tmp_path, env={**os.environ, **ENVIRONMENT}, stdout=subprocess.DEVNULL,
        )
        for number in range(2)
    ]  # fmt: skip
    try:
        assert [process.wait(LIMIT) for process in compiling] == [0, 0]
    finally:
        for process in compiling:
            process.kill()
    found = []
    for name, given in (("alone", []), ("compiled", ["--compiled", f"{file}0"])):
        (tmp_path / name).mkdir()
        with Run(tmp_path / name, [[*options, *given]] * 2) as run:
            (status, out, err), (other, *_) = run.results()
        assert (status, other) == (0, 0), err
        found.append(json.loads(out.splitlines()[-1])["params_sha256"])
    assert found[0] == found[1]
