import hashlib
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pjax_prim.errors import RunError
from pjax_prim.models import MLP
from pjax_prim.training import RunFolder, TrainConfig, params_sha256

from .runs import made

TASK, _ = made({})


def make(seed: int = 0, width: int = 4) -> MLP:
    return MLP(3, 2, (width,), dtype=jnp.float32, key=jax.random.key(seed))


def test_model_round_trip(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    folder.save_model(make())
    assert eqx.tree_equal(folder.load_model(make(seed=1)), make())
    assert [file.name for file in tmp_path.iterdir()] == ["model.eqx"]


def test_a_run_is_not_overwritten_by_accident(tmp_path) -> None:
    folder = RunFolder(tmp_path / "a" / "b")
    folder.create(TrainConfig(), TASK)
    folder.append_rows([{"batch": 1}], [0.5])
    (folder.checkpoints.step_path(3) / "state").mkdir(parents=True)
    other = folder.path / "notes.txt"
    other.touch()
    with pytest.raises(
        RunError, match=re.escape(f"{folder.path}: holds a run already (config.json); --resume")
    ):
        folder.create(TrainConfig(seed=1), TASK)
    assert folder.load_config() == TrainConfig()
    folder.create(TrainConfig(seed=1), TASK, overwrite=True)
    assert folder.load_config() == TrainConfig(seed=1)
    assert not folder.metrics.exists() and not folder.timings.exists() and other.exists()
    assert folder.checkpoints.steps() == []


def test_bad_folders(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(RunError, match="holds no run: config.json: No such file"):
        folder.load_config()
    with pytest.raises(RunError, match="model.eqx: no such file: the run did not finish"):
        folder.load_model(make())
    for content in (
        b"{",
        b"[]",
        b"[" * 200_000,
        b"\xff\xfe",
        b'{"task": {}}',
        b'{"task": {}, "train": {"seed": "x"}}',
    ):
        folder.config.write_bytes(content)
        with pytest.raises(RunError, match="config.json: (not a )?configuration"):
            folder.load_config()
    folder.model.write_bytes(b"nothing")
    with pytest.raises(RunError, match="model.eqx: damaged"):
        folder.load_model(make())
    folder.save_model(make(width=5))
    with pytest.raises(RunError, match="model.eqx: damaged, or of another model"):
        folder.load_model(make())
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file: cannot be written"):
        RunFolder(tmp_path / "file").create(TrainConfig(), TASK)


def test_hash_is_of_the_bytes_in_tree_order() -> None:
    tree = {"b": np.float32([3, 4]), "a": (np.float32([1, 2]), "name", np.int32([9]))}
    assert params_sha256(tree) == hashlib.sha256(np.float32([1, 2, 3, 4]).tobytes()).hexdigest()
    assert params_sha256(make()) != params_sha256(make(seed=1))
