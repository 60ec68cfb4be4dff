"""What a run leaves behind: `config.json`, `metrics.jsonl`, `timings.jsonl`, `checkpoints/`,
`model.eqx`, `curves.png`, and where trackers ask for them `trackers.json`, `tensorboard/`, `wandb/`.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from ..checkpoint import CHECKPOINTS, CheckpointFolder, export_params, import_params
from ..errors import ArgumentError, RunError
from .config import TrainConfig
from .task import Task


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: Path

    @property
    def config(self) -> Path:
        """The `TrainConfig`, and what the task was made of, as JSON."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """One JSON object a line for each batch."""
        return self.path / "metrics.jsonl"

    @property
    def timings(self) -> Path:
        """One JSON object a line for each batch: what differs from run to run."""
        return self.path / "timings.jsonl"

    @property
    def checkpoints(self) -> CheckpointFolder:
        """The checkpoints of the run."""
        return CheckpointFolder(self.path / CHECKPOINTS)

    @property
    def model(self) -> Path:
        """The model at the end of the run, by `eqx.tree_serialise_leaves`."""
        return self.path / "model.eqx"

    @property
    def tensorboard(self) -> Path:
        """Event files for TensorBoard, if asked for."""
        return self.path / "tensorboard"

    @property
    def wandb(self) -> Path:
        """Files of Weights & Biases, if asked for."""
        return self.path / "wandb"

    @property
    def trackers(self) -> Path:
        """The name by which each tracker knows the run, as JSON."""
        return self.path / "trackers.json"

    @property
    def curves(self) -> Path:
        """The picture of accuracy and gap."""
        return self.path / "curves.png"

    def make(self) -> None:
        """Makes the folder, if it is not there. `RunError` where that cannot be."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written ({error.strerror})") from None

    def create(self, config: TrainConfig, task: Task, *, overwrite: bool = False) -> None:
        """Makes the folder and writes the configuration.

        **Errors:** `RunError` where a run is already in it; with `overwrite`, that run's files
        are deleted (and no others).
        """
        files = [self.config, self.metrics, self.timings, self.model, self.curves]
        files += [self.checkpoints.path, self.tensorboard, self.wandb, self.trackers]
        present = [file for file in files if file.exists()]
        if present and not overwrite:
            raise RunError(
                f"{self.path}: holds a run already ({present[0].name}); "
                "--resume continues it, --overwrite replaces it"
            )
        self.make()
        try:
            for file in present:
                if file.is_dir():
                    shutil.rmtree(file)
                else:
                    file.unlink()
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written ({error.strerror})") from None
        self.write_config(config, task)

    def write_config(self, config: TrainConfig, task: Task) -> None:
        """Writes the configuration, in place of one that is there."""
        _replace(self.config, json.dumps(describe_run(config, task), indent=2) + "\n")

    def load_config(self) -> TrainConfig:
        """The configuration of the run. `RunError` where there is none, or it is damaged."""
        try:
            return TrainConfig.from_dict(self._load()["train"])
        except ArgumentError as error:
            raise RunError(f"{self.config}: {error}") from None

    def load_origin(self) -> dict[str, Any]:
        """What the task of the run was made of (`Task.origin`). Errors as for `load_config`."""
        origin: dict[str, Any] = self._load()["task"]
        return origin

    def load_identities(self) -> dict[str, str]:
        """What trackers call the run, by tracker. `RunError` where the file is damaged."""
        if not self.trackers.exists():
            return {}
        try:
            content = json.loads(self.trackers.read_text())
        except (OSError, ValueError) as error:
            raise RunError(f"{self.trackers}: cannot be read ({error})") from None
        if not isinstance(content, dict) or not all(isinstance(x, str) for x in content.values()):
            raise RunError(f"{self.trackers}: expected names by tracker, found {content!r}")
        return content

    def save_identities(self, identities: Mapping[str, str]) -> None:
        """Writes what trackers call the run, in place of what is there."""
        _replace(self.trackers, json.dumps(dict(identities), indent=2) + "\n")

    def _load(self) -> dict[str, Any]:
        try:
            content = json.loads(self.config.read_text())
        except OSError as error:
            raise RunError(f"{self.path}: holds no run: {self.config.name}: {error.strerror}") from None
        except ValueError as error:  # also text that is not UTF-8
            raise RunError(f"{self.config}: not a configuration ({error})") from None
        if not (isinstance(content, dict) and content.keys() == {"task", "train"}):
            raise RunError(f"{self.config}: not a configuration: expected the entries task and train")
        return content

    def append_rows(self, rows: Sequence[dict[str, Any]], timings: Sequence[float]) -> None:
        """Adds lines to `metrics`, and the seconds after each to `timings`."""
        _append(self.metrics, rows)
        numbers = [row["batch"] for row in rows]
        _append(
            self.timings,
            [{"batch": n, "seconds": seconds} for n, seconds in zip(numbers, timings, strict=True)],
        )

    def replace_rows(self, rows: Sequence[dict[str, Any]]) -> None:
        """Writes all lines of `metrics` anew, at once."""
        _replace(self.metrics, "".join(json.dumps(row) + "\n" for row in rows))

    def sync_metrics(self) -> None:
        """Returns when all rows are on the disk."""
        for path in (self.metrics, self.timings):
            if path.exists():
                with path.open("rb") as file:
                    os.fsync(file.fileno())

    def rewind(self, batches: int, *, write: bool = True) -> tuple[list[dict[str, Any]], list[float]]:
        """Cuts `metrics` and `timings` to the rows of the first `batches` batches, each at once.

        **Arguments:** `write`: whether to cut, or only to read these rows.

        **Returns:** the rows, and the seconds after each.

        **Errors:** `RunError` where one of these rows is missing or damaged.
        """
        rows = _first_rows(self.metrics, batches)
        timings = _first_rows(self.timings, batches)
        if write:
            self.replace_rows(rows)
            _replace(self.timings, "".join(json.dumps(row) + "\n" for row in timings))
        return rows, [float(row["seconds"]) for row in timings]

    def save_model(self, model: PyTree) -> None:
        """Writes the model; a killed write leaves the one before it."""
        export_params(model, self.model)

    def load_model(self, like: PyTree) -> PyTree:
        """The saved model. `RunError` where there is none or it does not fit `like`."""
        if not self.model.exists():
            raise RunError(f"{self.model}: no such file: the run did not finish")
        return import_params(self.model, like)


def describe_run(config: TrainConfig, task: Task) -> dict[str, Any]:
    """What determines a run, as `config.json` has it."""
    return {"task": dict(task.origin), "train": config.to_dict()}


def params_sha256(model: PyTree) -> str:
    """SHA-256 of the bytes of the trained arrays, in tree order."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _append(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    try:
        with path.open("a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror})") from None


def _first_rows(path: Path, batches: int) -> list[dict[str, Any]]:
    try:
        lines = path.read_text().splitlines() if path.exists() else []
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error})") from None
    rows: list[dict[str, Any]] = []
    for number in range(1, batches + 1):
        try:
            row = json.loads(lines[number - 1])
            good = row["batch"] == number
        except (IndexError, ValueError, KeyError, TypeError):
            good = False
        if not good:
            raise RunError(f"{path}: line {number}: expected the row of batch {number}, found none")
        rows.append(row)
    return rows


def _replace(path: Path, text: str) -> None:
    """Writes a file; a killed write leaves the one before it."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror})") from None
