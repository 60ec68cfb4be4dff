"""Every network but the multilayer perceptron learns by displacement, and a stopped run goes on.

`tests/sharding/test_training.py` has them on a mesh.
"""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pjax_prim.errors import PreemptedError
from pjax_prim.training import RunFolder, TrainConfig, params_sha256, train

pytestmark = pytest.mark.slow

WORDS = ("area", "aroma", "banana", "cocoa", "banner", "corner", "bonbon", "rumor", "error")
"""Few letters, so that one alone says little of the next."""

IMAGES = TrainConfig(model="cnn", hidden=(16, 16), batch_size=64, batches=100)
TEXTS = {"data": "text", "length": 16, "batch_size": 16}
NETWORKS = {
    "cnn": IMAGES,
    "rnn": TrainConfig(model="rnn", hidden=(32,), batches=60, **TEXTS),
    "gru": TrainConfig(model="gru", hidden=(32,), batches=60, **TEXTS),
    "transformer": TrainConfig(model="transformer", hidden=(32,), batches=60, **TEXTS),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.usefixtures("shared_compilation")
def test_learns_and_resumes(name: str, tmp_path: Path) -> None:
    config = replace(NETWORKS[name], solver="displacement", learning_rate=1e-2)
    if config.data == "text":
        (tmp_path / "words.txt").write_text(" ".join(np.random.default_rng(0).choice(WORDS, 2000)))
        config = replace(config, data_dir=str(tmp_path))
    config = replace(config, eval_every=config.batches)
    whole = train(config)
    _, trivial = whole.baseline
    assert whole.rows[-1]["test_accuracy"] > trivial + 0.1
    gaps = [row["gap"] for row in whole.rows]
    assert np.mean(gaps[-5:]) < 0.7 * gaps[0]

    def stop(row: dict[str, Any]) -> None:
        if row["batch"] == config.batches // 2:
            signal.raise_signal(signal.SIGTERM)

    folder = RunFolder(tmp_path / "run")
    with pytest.raises(PreemptedError):
        train(config, folder, on_batch=stop)
    resumed = train(config, folder, resume=True)
    assert params_sha256(resumed.model) == params_sha256(whole.model)
    assert resumed.rows == whole.rows
