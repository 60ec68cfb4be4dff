"""Runs on the built-in benchmarks, by the flat names of their options; stopped, resumed and compared."""

import json
from dataclasses import fields as fields_of
from dataclasses import replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest

from pjax_prim.checkpoint import Preemption, Retention, SavePolicy
from pjax_prim.errors import PreemptedError
from pjax_prim.tasks import built_in
from pjax_prim.tasks.classification import Classifier
from pjax_prim.training import (
    Method,
    RunFolder,
    Saving,
    Task,
    TrainConfig,
    TrainResult,
    params_sha256,
    train,
)

EVERY = Saving(SavePolicy(every=1), Retention(latest=3))

_METHOD = {item.name for item in fields_of(Method)}
_NETWORK = {item.name for item in fields_of(Classifier)}


def made(fields: dict[str, Any]) -> tuple[Task, TrainConfig]:
    """The task and the configuration that options describe; alternating projections if no solver is named."""
    given = {"solver": "ap", **fields}
    method = Method(**{name: given.pop(name) for name in _METHOD & given.keys()})
    file = built_in(given.pop("data", "digits"))
    start = file.default_options()
    network = replace(start.network, **{name: given.pop(name) for name in _NETWORK & given.keys()})
    own = {name: given.pop(name) for name in ("data_dir", "length") if name in given}
    return file.make(replace(start, network=network, **own)), TrainConfig(method=method, **given)


def run(fields: dict[str, Any], folder: RunFolder | Path | None = None, **settings: Any) -> TrainResult:
    """`train` with these options."""
    return train(*made(fields), RunFolder(folder) if isinstance(folder, Path) else folder, **settings)


def stop_after(monkeypatch: pytest.MonkeyPatch, polls: int) -> None:
    """From its `polls`-th poll on, a run finds that it was asked to stop."""
    asked = 0

    def reached(self: Preemption) -> bool:
        nonlocal asked
        asked += 1
        return asked >= polls

    monkeypatch.setattr(Preemption, "reached", reached)


def outcome(result: TrainResult, folder: RunFolder) -> tuple:
    """All that must be the same, bit for bit."""
    arrays = {
        name: np.asarray(jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for name, x in jax.tree_util.tree_leaves_with_path(eqx.filter(result.state, eqx.is_array))
    }
    return (
        params_sha256(result.model),
        folder.storage.read(folder.metrics),
        folder.storage.read(folder.model),
        [(str(name), x.dtype, x.tobytes()) for name, x in arrays.items()],
        [json.loads(line)["batch"] for line in folder.storage.read(folder.timings).splitlines()],
    )


def interrupted(config: dict, folder: RunFolder, polls: int, saving: Saving = EVERY) -> TrainResult:
    """A run that is stopped at a poll, and resumed."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, polls)
        with pytest.raises(PreemptedError, match="asked to stop: saved after batch .*--resume --run-dir"):
            run(config, folder, saving=saving)
    return run(config, folder, resume=True, saving=saving)
