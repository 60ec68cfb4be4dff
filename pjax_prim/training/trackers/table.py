"""The trackers that have a name on the command line."""

import importlib
from collections.abc import Sequence

from ...errors import ArgumentError
from ...sharding.mesh import nearest
from .base import Tracker

TRACKERS = {
    "console": ("console", "Console"),
    "json-lines": ("json_lines", "JsonLines"),
    "tensorboard": ("tensorboard", "TensorBoard"),
    "wandb": ("wandb", "WeightsAndBiases"),
    "mlflow": ("mlflow", "MLflow"),
}
"""The file and the class of each tracker by its name; a file imports its package."""


def make_trackers(names: Sequence[str]) -> dict[str, Tracker]:
    """The trackers of these names.

    **Errors:** `ArgumentError` for another name; `ModuleNotFoundError` where a package is not installed.
    """
    made: dict[str, Tracker] = {}
    for name in names:
        if name not in TRACKERS:
            raise ArgumentError(
                f"tracker: expected some of {', '.join(TRACKERS)}, given {name!r}{nearest(name, [*TRACKERS])}"
            )
        file, kind = TRACKERS[name]
        made[name] = getattr(importlib.import_module(f".{file}", __package__), kind)()
    return made
