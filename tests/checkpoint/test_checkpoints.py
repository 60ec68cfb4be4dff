import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pjax_prim.checkpoint import (
    CheckpointFolder,
    CheckpointWriter,
    FolderLock,
    Preemption,
    Retention,
    SavePolicy,
    differences,
    preemption,
    set_aside,
)
from pjax_prim.errors import ArgumentError, CheckpointError


class Everything(eqx.Module):
    """All kinds of leaves, nested in all kinds of containers."""

    model: eqx.nn.MLP
    memory: optax.OptState
    mixed: dict
    key: jax.Array
    rate: float
    nothing: None = None


def everything(seed: int = 0) -> Everything:
    model = eqx.nn.MLP(3, 2, 4, 1, dtype=jnp.float32, key=jax.random.key(seed))
    memory = optax.adam(1e-3).init(eqx.filter(model, eqx.is_inexact_array))
    mixed = {
        "half": jnp.arange(3, dtype=jnp.bfloat16) + seed,
        "double": (jnp.linspace(0, 1, 5, dtype=jnp.float64) + seed, jnp.array(True)),
        "host": [np.arange(4) + seed],
    }
    return Everything(model, memory, mixed, jax.random.key(seed + 7), 0.5)


def save(path: Path, *trees, first: int = 1, **options) -> CheckpointFolder:
    with CheckpointWriter(path, **options) as writer:
        for step, tree in enumerate(trees, first):
            writer.save(step, tree, {"note": f"of {step}"})
    return CheckpointFolder(path)


def test_everything_comes_back(tmp_path) -> None:
    folder = save(tmp_path, everything())
    folder.verify(1)
    restored = folder.restore(1, everything(seed=1))
    assert eqx.tree_equal(restored, everything(), typematch=True)
    assert isinstance(restored.mixed["host"][0], np.ndarray)
    info = folder.info(1)
    assert info["note"] == "of 1" and info["arrays"]["mixed.half"] == {"shape": [3], "dtype": "bfloat16"}
    assert folder.bytes(1) > 0


def test_arrays_may_be_donated_at_once(tmp_path) -> None:
    double = jax.jit(lambda x: 2 * x, donate_argnums=0)
    x = jnp.arange(1000.0)
    with CheckpointWriter(tmp_path, Retention(latest=5)) as writer:
        for step in range(1, 4):
            writer.save(step, {"x": x}, {})
            x = double(x)
    folder = CheckpointFolder(tmp_path)
    for step in range(1, 4):
        np.testing.assert_array_equal(
            folder.restore(step, {"x": x})["x"], np.arange(1000.0) * 2 ** (step - 1)
        )


@pytest.mark.parametrize(
    ("shape", "axes", "spec"),
    [((4, 2), ("a", "b"), ("b", "a")), ((2,), ("a",), (None, "a")), ((1,), ("a",), ()), (None, None, None)],
)
def test_another_mesh(tmp_path, shape, axes, spec) -> None:
    devices = np.array(jax.devices())
    x = jnp.arange(128.0).reshape(16, 8)
    sharded = jax.device_put(x, NamedSharding(Mesh(devices, ("a",)), PartitionSpec("a")))
    folder = save(tmp_path, {"x": sharded})
    if shape is None:
        like = {"x": jax.ShapeDtypeStruct(x.shape, x.dtype)}
    else:
        mesh = Mesh(devices[: np.prod(shape)].reshape(shape), axes)
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        like = {"x": jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)}
    folder = save(tmp_path, {"x": sharded, "on one device": jnp.zeros(3)}, first=2)
    restored = folder.restore(1, like)["x"]
    np.testing.assert_array_equal(restored, x)
    if shape is not None:
        assert restored.sharding == sharding
        assert restored.addressable_shards[0].data.shape == sharding.shard_shape(x.shape)


def test_every_difference_is_listed(tmp_path) -> None:
    folder = save(tmp_path, everything())
    like = everything()
    like = eqx.tree_at(
        lambda t: (t.model.layers[0].weight, t.mixed, t.rate, t.key),
        like,
        (
            jnp.zeros((5, 3), jnp.float32),
            {"half": jnp.zeros(3, jnp.float32), "double": like.mixed["double"], "new": jnp.zeros(())},
            0.25,
            jax.random.key(0, impl="rbg"),
        ),
    )
    with pytest.raises(CheckpointError) as error:
        folder.restore(1, like)
    place, *lines = str(error.value).splitlines()
    assert place == f"{tmp_path / '1'}: does not fit:"
    assert sorted(line.strip() for line in lines) == [
        "key: key<fry>[] in the checkpoint, key<rbg>[] here",
        "mixed.half: bfloat16[3] in the checkpoint, float32[3] here",
        "mixed.host.0: int64[4] in the checkpoint, absent here",
        "mixed.new: absent in the checkpoint, float64[] here",
        "model.layers.0.weight: float32[4, 3] in the checkpoint, float32[5, 3] here",
        "rate: 0.5 in the checkpoint, 0.25 here",
    ]


def test_differences_of_nothing() -> None:
    assert differences({"x": float("nan")}, {"x": float("nan")}) == []
    assert differences({"a": 1}, {"a": 1}) == []


def test_retention(tmp_path) -> None:
    with CheckpointWriter(tmp_path, Retention(latest=2, every=4, best=1)) as writer:
        for step in range(1, 12):
            metrics = {"test_accuracy": 1.0 - abs(step - 3)} if step % 2 else None
            writer.save(step, {"x": jnp.zeros(())}, {}, metrics)
    assert CheckpointFolder(tmp_path).steps() == [3, 4, 8, 10, 11]


def damages(path: Path) -> Iterator[tuple[str, bytes | None]]:
    content = path.read_bytes()
    yield "absent", None
    yield "truncated", content[: len(content) // 2]
    if content:
        middle = len(content) // 2
        yield "altered", content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_damage_of_any_file_is_found(tmp_path) -> None:
    folder = save(tmp_path / "good", everything(), everything(1))
    good = folder.step_path(2)
    files = [path.relative_to(good) for path in good.rglob("*") if path.is_file()]
    assert len(files) > 7
    for file in files:
        for kind, content in damages(good / file):
            # Orbax writes these two last; nothing is read from them.
            late = str(file) in ("_CHECKPOINT_METADATA", "commit_success.txt")
            if content == (good / file).read_bytes() or (late and kind != "absent"):
                continue
            before = (good / file).read_bytes()
            (good / file).unlink() if content is None else (good / file).write_bytes(content)
            with pytest.raises(CheckpointError, match=re.escape(str(good / file))):
                folder.verify(2)
            with pytest.raises(CheckpointError, match=r"older checkpoints: 1\. .*--resume-older"):
                folder.choose()
            assert folder.choose(allow_older=True) == 1, (file, kind)
            (good / file).write_bytes(before)
    assert folder.choose() == 2
    (good / "_CHECKPOINT_METADATA").write_text("")
    with pytest.raises(CheckpointError, match="_CHECKPOINT_METADATA: damaged"):
        folder.verify(2)
    for step in (1, 2):
        (folder.step_path(step) / "checkpoint.json").write_text("{}")
    with pytest.raises(CheckpointError, match="every checkpoint is damaged"):
        folder.choose(allow_older=True)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        CheckpointFolder(tmp_path / "absent").choose()


def test_nothing_is_overwritten(tmp_path) -> None:
    folder = save(tmp_path, everything(), everything(1))
    with CheckpointWriter(tmp_path) as writer:
        for step in (1, 2):
            with pytest.raises(
                CheckpointError, match="checkpoint 2 exists; a checkpoint is never overwritten"
            ):
                writer.save(step, everything(2), {})
    assert eqx.tree_equal(folder.restore(2, everything()), everything(1))
    assert set_aside(folder, 1) == [tmp_path / "2.damaged"]
    save(tmp_path, everything(3), first=2)
    assert set_aside(folder, 1) == [tmp_path / "2.damaged.2"]
    assert folder.steps() == [1]


def test_half_written_checkpoint_does_not_count_and_is_swept(tmp_path) -> None:
    folder = save(tmp_path, everything())
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
    assert folder.steps() == [1] and folder.choose() == 1
    save(tmp_path, everything(1), first=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]
    assert eqx.tree_equal(folder.restore(2, everything()), everything(1))


@contextlib.contextmanager
def mounted(path: Path, options: str) -> Iterator[Path]:
    path.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path]).returncode:
        pytest.skip("mounting needs root")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_full_disk(tmp_path) -> None:
    rng = np.random.default_rng(0)  # does not compress
    small, large = ({"x": jnp.asarray(rng.standard_normal(n))} for n in (1000, 300_000))
    with mounted(tmp_path / "disk", "size=1m") as disk:
        message = r"2 could not be written \(No space left on device\); the newest complete one is 1"
        with pytest.raises(CheckpointError, match=message), CheckpointWriter(disk) as writer:
            writer.save(1, small, {})
            writer.save(2, large, {})
            writer.wait()
        assert [path.name for path in disk.iterdir()] == ["1"]
        folder = CheckpointFolder(disk)
        assert folder.choose() == 1
        np.testing.assert_array_equal(folder.restore(1, small)["x"], small["x"])
        save(disk, small, first=2)
        assert folder.choose() == 2


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_read_only_folder(tmp_path) -> None:
    with mounted(tmp_path / "disk", "size=4m") as disk:
        folder = save(disk / "c", everything())
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        assert eqx.tree_equal(folder.restore(folder.choose(), everything(1)), everything())
        with pytest.raises(CheckpointError, match="cannot be written|could not be written") as error:
            save(disk / "c", everything(), first=2)
        assert "Read-only file system" in str(error.value)
        with pytest.raises(CheckpointError, match="Read-only file system"), FolderLock(disk):
            pass


def test_one_writer(tmp_path) -> None:
    with FolderLock(tmp_path):
        with (
            pytest.raises(CheckpointError, match=f"in use by process {os.getpid()} on "),
            FolderLock(tmp_path),
        ):
            pass
    holder = (
        "import sys, time; from pathlib import Path\n"
        "from pjax_prim.checkpoint import FolderLock\n"
        "with FolderLock(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    child = subprocess.Popen([sys.executable, "-c", holder, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "held\n"
        with pytest.raises(CheckpointError, match=f"in use by process {child.pid} "), FolderLock(tmp_path):
            pass
    finally:
        child.kill()
        child.communicate()
    with FolderLock(tmp_path):
        pass


def test_preemption() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Preemption() as preemption:
        assert not preemption.reached()
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.reached() and preemption.reached()
    assert signal.getsignal(signal.SIGTERM) is before


def test_preemption_whose_service_fails(monkeypatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(preemption, "has_preemption_service", lambda: True)

    def fail(step: int) -> bool:
        raise jax.errors.JaxRuntimeError(f"UNAVAILABLE: no answer to poll {step}\nmore")

    monkeypatch.setattr(preemption.multihost_utils, "reached_preemption_sync_point", fail)
    with Preemption() as asked:
        with pytest.warns(RuntimeWarning, match="does not answer .UNAVAILABLE: no answer to poll 1.;"):
            assert not asked.reached()
        assert not asked.reached()  # and says it once
        monkeypatch.setattr(
            preemption.multihost_utils, "reached_preemption_sync_point", lambda step: step == 3
        )
        assert asked.reached()  # polls are counted on


def test_preemption_without_a_service(monkeypatch) -> None:
    others = np.array(False)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(preemption, "has_preemption_service", lambda: False)
    monkeypatch.setattr(preemption.multihost_utils, "process_allgather", lambda own: np.stack([own, others]))
    with Preemption() as asked:
        assert not asked.reached()
        others = np.array(True)
        assert asked.reached()
        others = np.array(False)
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.reached()


def test_when_a_save_is_due() -> None:
    policy = SavePolicy(every=3, seconds=None)
    assert [batch for batch in range(1, 10) if policy.is_due(batch, 0.0)] == [3, 6, 9]
    assert not policy.is_due(None, 0.0)
    assert SavePolicy(seconds=0).is_due(None, 0.0)
    assert not SavePolicy(seconds=1e9).is_due(1, 0.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SavePolicy(every=0), "checkpoint_every: expected at least 1, given 0"),
        (
            lambda: SavePolicy(seconds=-1),
            "checkpoint_seconds: expected a finite number of at least 0, given -1",
        ),
        (lambda: Retention(latest=0), "keep_latest: expected at least 1, given 0"),
        (lambda: Retention(every=0), "keep_every: expected at least 1, given 0"),
        (lambda: Retention(best=-1), "keep_best: expected at least 0, given -1"),
    ],
)
def test_bad_policies(make, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()
