"""Runs on the built-in benchmarks, by the flat names of their options."""

from dataclasses import fields as fields_of
from dataclasses import replace
from pathlib import Path
from typing import Any

from pjax_prim.tasks import built_in
from pjax_prim.tasks.classification import Classifier
from pjax_prim.training import Method, RunFolder, Task, TrainConfig, TrainResult, train

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
