"""Every network but the multilayer perceptron learns by displacement, and a stopped run goes on.

`tests/sharding/test_training.py` has them on a mesh.
"""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pjax_prim.errors import PreemptedError
from pjax_prim.models import SEQUENCE_NETWORKS
from pjax_prim.training import RunFolder, params_sha256

from .runs import run

pytestmark = pytest.mark.slow

WORDS = ("area", "aroma", "banana", "cocoa", "banner", "corner", "bonbon", "rumor", "error")
"""Few letters, so that one alone says little of the next."""

IMAGES = {"model": "cnn", "hidden": (16, 16), "batch_size": 64, "batches": 100}
TEXTS = {"data": "text", "length": 16, "batch_size": 16}
NETWORKS = {
    "cnn": IMAGES,
    **{name: {"model": name, "hidden": (32,), "batches": 60, **TEXTS} for name in SEQUENCE_NETWORKS},
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.usefixtures("shared_compilation")
def test_learns_and_resumes(name: str, tmp_path: Path) -> None:
    config = {**NETWORKS[name], "solver": "displacement", "learning_rate": 1e-2}
    if config.get("data") == "text":
        (tmp_path / "words.txt").write_text(" ".join(np.random.default_rng(0).choice(WORDS, 2000)))
        config = {**config, "data_dir": tmp_path}
    config = {**config, "eval_every": config["batches"]}
    whole = run(config)
    _, trivial = whole.task.baselines["test_accuracy"]
    assert whole.rows[-1]["test_accuracy"] > trivial + 0.1
    losses = [row["loss"] for row in whole.rows]
    assert np.mean(losses[-5:]) < 0.9 * losses[0] and whole.rows[-1]["gap"] > 0

    def stop(row: dict[str, Any]) -> None:
        if row["batch"] == config["batches"] // 2:
            signal.raise_signal(signal.SIGTERM)

    folder = RunFolder(tmp_path / "run")
    with pytest.raises(PreemptedError):
        run(config, folder, on_batch=stop)
    resumed = run(config, folder, resume=True)
    assert params_sha256(resumed.model) == params_sha256(whole.model)
    assert resumed.rows == whole.rows
