"""Trackers, each against what its own package reads back, without a server."""

import contextlib
import importlib.util
import io
import json
import struct
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pjax_prim.cli import main
from pjax_prim.errors import ArgumentError
from pjax_prim.training import RunFolder
from pjax_prim.training.trackers import TRACKERS, Figures, TrackedRun, Trackers, make_trackers
from tests.training.runs import run

SMALL = {"solver": "adam", "hidden": (8,), "batch_size": 32, "batches": 4, "eval_every": 2}
NAMES = [name for name in TRACKERS if name not in ("wandb", "mlflow") or importlib.util.find_spec(name)]


class Tracked:
    """A run of four batches, and two more after a resume, with every tracker that is installed."""

    def __init__(self, place: Path):
        self.store = (place / "store").as_uri()
        self.folder = RunFolder(place / "a run")
        environment = {
            "WANDB_MODE": "offline", "WANDB_SILENT": "true", "MLFLOW_ALLOW_FILE_STORE": "true",
            "MLFLOW_TRACKING_URI": self.store, "MLFLOW_EXPERIMENT_NAME": "mine",
        }  # fmt: skip
        out = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
            for name, value in environment.items():
                patch.setenv(name, value)
            # TensorBoard names files by the second: a resume within it must not overwrite the first file.
            patch.setattr("tensorboardX.event_file_writer.time", types.SimpleNamespace(time=lambda: 1.8e9))
            run(SMALL, self.folder, trackers=make_trackers(NAMES))
            again = {**SMALL, "batches": 6}
            self.rows = run(again, self.folder, trackers=make_trackers(NAMES), resume=True).rows
        self.lines = [json.loads(line) for line in out.getvalue().splitlines()]

    def of_rows(self, name: str) -> dict[int, Any]:
        """A figure by batch, as a tracker should have it."""
        return {row["batch"]: pytest.approx(row[name]) for row in self.rows if name in row}


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Tracked:
    return Tracked(tmp_path_factory.mktemp("tracked"))


def test_json_lines(tracked: Tracked) -> None:
    starts = [line for line in tracked.lines if "run" in line]
    assert [line["configuration"]["train"]["batches"] for line in starts] == [4, 6]
    assert tracked.lines[0] == starts[0] and starts[0]["run"] == "digits, mlp-adam"
    lines = [line for line in tracked.lines if "batch" in line]
    for name in ("loss", "test_accuracy"):
        assert {line["batch"]: line[name] for line in lines if name in line} == tracked.of_rows(name)
    assert lines[-1]["examples_per_second"] > 0 and 0 < lines[-1]["goodput"] < 1
    assert {"steps_seconds", "data_seconds", "save_seconds", "compile_seconds"} <= lines[-1].keys()


def test_tensorboard(tracked: Tracked) -> None:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    found: dict[str, dict[int, float]] = {}
    for file in sorted(tracked.folder.tensorboard.iterdir()):
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            record, rest = content[12 : 12 + length], content[12 + length :]
            assert struct.unpack("<I", rest[:4]) == (masked_crc32c(record),)
            event = Event.FromString(record)
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
            content = rest[4:]
    assert found["loss"] == tracked.of_rows("loss")
    assert found["test_accuracy"] == tracked.of_rows("test_accuracy")


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of an offline run, whose file is a LevelDB log: blocks of 32 KiB, with parts of records."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if place % 32768 > 32768 - 7:
            place += -place % 32768
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def test_weights_and_biases_offline(tracked: Tracked) -> None:
    pytest.importorskip("wandb").teardown()  # its process writes the end of its files
    name = tracked.folder.load_identities()["wandb"]
    files = sorted(tracked.folder.wandb.glob("offline-run-*/run-*.wandb"))
    assert [file.name for file in files] == [f"run-{name}.wandb"] * 2
    found: dict[str, dict[int, Any]] = {}
    for file in files:
        records = list(wandb_records(file))
        (told,) = (record.run for record in records if record.WhichOneof("record_type") == "run")
        assert (told.run_id, told.project, told.display_name) == (name, "pjax-prim", "a run")
        config = {item.key: json.loads(item.value_json) for item in told.config.update}
        assert config["train"]["method"]["solver"] == "adam"
        for record in records:
            items = record.history.item
            row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}
            for key, value in row.items():
                found.setdefault(key, {})[row["batch"]] = value
        (ended,) = (record.exit for record in records if record.WhichOneof("record_type") == "exit")
        assert ended.exit_code == 0
    for key in ("loss", "test_accuracy"):
        assert found[key] == tracked.of_rows(key)


def test_mlflow_in_a_folder(tracked: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = mlflow.MlflowClient(tracked.store)
    (kept,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert kept.info.run_id == tracked.folder.load_identities()["mlflow"]
    assert (kept.info.run_name, kept.info.status) == ("a run", "FINISHED")
    assert kept.data.params["train.method.solver"] == "adam" and kept.data.params["train.batches"] == "4"
    assert kept.data.tags["train.batches"] == "6"  # parameters of a run never change
    for name in ("loss", "test_accuracy"):
        history = client.get_metric_history(kept.info.run_id, name)
        assert {x.step: x.value for x in history} == tracked.of_rows(name)


class Breaking:
    """Fails at its second batch, as a lost connection would; notes how it ends."""

    def __init__(self, at: int):
        self.at = at
        self.seen: list[int] = []
        self.ended: list[BaseException | None] = []

    def start(self, run: TrackedRun) -> None:
        if self.at == 0:
            raise OSError("no server\nmore of it")

    def log(self, batch: int, figures: Figures) -> None:
        self.seen.append(batch)
        if batch == self.at:
            raise OSError("no connection\nmore of it")

    def finish(self, error: BaseException | None) -> None:
        self.ended.append(error)


def test_a_tracker_that_fails_does_not_end_the_run(tmp_path: Path) -> None:
    said: list[str] = []
    breaking, whole = Breaking(at=2), Breaking(at=9)
    result = run(SMALL, tmp_path, trackers={"mine": breaking, "other": whole}, say=said.append)
    assert [row["batch"] for row in result.rows] == [1, 2, 3, 4] == whole.seen
    assert breaking.seen == [1, 2] and breaking.ended == [] and whole.ended == [None]
    assert result.failed_trackers == {"mine": "at batch 2: no connection"}
    assert said == [
        "tracker mine failed at batch 2: no connection; the run goes on without it, "
        "and metrics.jsonl holds every row"
    ]


def test_what_ends_a_run_reaches_its_trackers() -> None:
    tracker, error = Breaking(at=9), KeyboardInterrupt()
    told = TrackedRun("a run", None, {}, 3)
    with pytest.raises(KeyboardInterrupt), Trackers({"mine": tracker}, print) as trackers:
        trackers.start(lambda identity: told, {})
        raise error
    assert tracker.ended == [error]


def test_a_tracker_that_cannot_start_ends_the_run() -> None:
    first, told = Breaking(at=9), TrackedRun("a run", None, {}, 3)
    with (
        pytest.raises(ArgumentError, match=r"tracker: mine: could not start \(no server\)$"),
        Trackers({"first": first, "mine": Breaking(at=0)}, print) as trackers,
    ):
        trackers.start(lambda identity: told, {})
    assert len(first.ended) == 1  # what had started is finished
    with pytest.raises(ArgumentError, match="tracker: tensorboard: needs the folder of the run"):
        make_trackers(["tensorboard"])["tensorboard"].start(told)


def test_names_of_trackers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ["--run-dir", str(tmp_path / "run")]
    assert main(["train", "--tracker", "json-lines", "wand", *place]) == 2
    assert f"tracker: expected some of {', '.join(TRACKERS)}, given 'wand'" in capsys.readouterr().err
    for name, package in (("mlflow", "mlflow"), ("wandb", "wandb"), ("tensorboard", "tensorboardX")):
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(sys.modules, f"pjax_prim.training.trackers.{name}", raising=False)
        assert main(["train", "--tracker", name, *place]) == 2
        expected = f"train: needs the package {package}; pip install 'pjax-prim[{name}]'"
        assert expected in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
