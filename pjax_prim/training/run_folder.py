"""What a run leaves behind: `config.json`, `metrics.jsonl`, `timings.jsonl`, `checkpoints/`,
`model.eqx`, `curves.png`, and where trackers ask for them `trackers.json`, `tensorboard/`, `wandb/`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from ..checkpoint import CHECKPOINTS, CheckpointFolder, as_path, export_params, import_params, storage_of
from ..checkpoint.json_text import parse_json
from ..checkpoint.storage import Storage
from ..errors import ArgumentError, RunError
from .config import TrainConfig
from .task import Task


@dataclass(frozen=True)
class RunFolder:
    """The files of one run.

    **Arguments:** `path`: on a file system, or as text `gs://bucket/...`, an `epath.Path` from then on; what
    differs there is in docs/checkpoints.md.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", as_path(self.path))

    @property
    def storage(self) -> Storage:
        """What reads and writes the files."""
        return storage_of(self.path)

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
        with _written(self.path):
            self.storage.make(self.path)

    def holds_run(self) -> bool:
        """Whether a run has begun in the folder. `RunError` where that cannot be found out."""
        return self._has(self.config)

    def _has(self, path: Path) -> bool:
        try:
            return self.storage.exists(path)
        except OSError as error:
            raise RunError(f"{path}: cannot be read ({error.strerror})") from None

    def create(self, config: TrainConfig, task: Task, *, overwrite: bool = False) -> None:
        """Makes the folder and writes the configuration.

        **Errors:** `RunError` where a run is already in it; with `overwrite`, that run's files
        are deleted (and no others).
        """
        files = [self.config, self.metrics, self.timings, self.model, self.curves]
        files += [self.checkpoints.path, self.tensorboard, self.wandb, self.trackers]
        present = [file for file in files if self._has(file)]
        if present and not overwrite:
            raise RunError(
                f"{self.path}: holds a run already ({present[0].name}); "
                "--resume continues it, --overwrite replaces it"
            )
        self.make()
        with _written(self.path):
            for file in present:
                self.storage.delete(file)
        self.write_config(config, task)

    def write_config(self, config: TrainConfig, task: Task) -> None:
        """Writes the configuration, in place of one that is there."""
        self._write(self.config, json.dumps(describe_run(config, task), indent=2) + "\n")

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
        if not self._has(self.trackers):
            return {}
        try:
            content = parse_json(self.storage.read(self.trackers))
        except (OSError, ValueError) as error:
            raise RunError(f"{self.trackers}: cannot be read ({error})") from None
        if not isinstance(content, dict) or not all(isinstance(x, str) for x in content.values()):
            raise RunError(f"{self.trackers}: expected names by tracker, found {content!r}")
        return content

    def save_identities(self, identities: Mapping[str, str]) -> None:
        """Writes what trackers call the run, in place of what is there."""
        self._write(self.trackers, json.dumps(dict(identities), indent=2) + "\n")

    def _load(self) -> dict[str, Any]:
        try:
            content = parse_json(self.storage.read(self.config))
        except FileNotFoundError as error:
            raise RunError(f"{self.path}: holds no run: {self.config.name}: {error.strerror}") from None
        except OSError as error:
            raise RunError(f"{self.config}: cannot be read ({error.strerror})") from None
        except ValueError as error:  # also text that is not UTF-8
            raise RunError(f"{self.config}: not a configuration ({error})") from None
        if not (isinstance(content, dict) and content.keys() == {"task", "train"}):
            raise RunError(f"{self.config}: not a configuration: expected the entries task and train")
        return content

    def append_rows(self, rows: Sequence[dict[str, Any]], timings: Sequence[float]) -> None:
        """Adds lines to `metrics`, and the seconds after each to `timings`."""
        numbers = [row["batch"] for row in rows]
        spent = [{"batch": n, "seconds": seconds} for n, seconds in zip(numbers, timings, strict=True)]
        for path, found in ((self.metrics, rows), (self.timings, spent)):
            with _written(path):
                self.storage.append(path, _lines(found))

    def replace_rows(self, rows: Sequence[dict[str, Any]]) -> None:
        """Writes all lines of `metrics` anew, at once."""
        self._write(self.metrics, _lines(rows))

    def sync_metrics(self) -> None:
        """Returns when all rows are on the disk, or in the bucket."""
        for path in (self.metrics, self.timings):
            with _written(path):
                self.storage.sync(path)

    def rewind(self, batches: int, *, write: bool = True) -> tuple[list[dict[str, Any]], list[float]]:
        """Cuts `metrics` and `timings` to the rows of the first `batches` batches, each at once.

        **Arguments:** `write`: whether to cut, or only to read these rows.

        **Returns:** the rows, and the seconds after each.

        **Errors:** `RunError` where one of these rows is missing or damaged.
        """
        rows = self._first_rows(self.metrics, batches)
        timings = self._first_rows(self.timings, batches)
        if write:
            self.replace_rows(rows)
            self._write(self.timings, _lines(timings))
        return rows, [float(row["seconds"]) for row in timings]

    def save_model(self, model: PyTree) -> None:
        """Writes the model; a killed write leaves the one before it."""
        try:
            export_params(model, self.model)
        except RunError as error:
            raise RunError(
                f"{error}; the last checkpoint is whole and has the model, which pjax-prim export writes"
            ) from None

    def load_model(self, like: PyTree) -> PyTree:
        """The saved model. `RunError` where there is none or it does not fit `like`."""
        if not self._has(self.model):
            raise RunError(f"{self.model}: no such file: the run did not finish")
        return import_params(self.model, like)

    def _write(self, path: Path, text: str) -> None:
        """Writes a file; a killed write leaves the one before it."""
        with _written(path):
            self.storage.write(path, text)

    def _first_rows(self, path: Path, batches: int) -> list[dict[str, Any]]:
        try:
            lines = self.storage.read(path).decode().splitlines() if self.storage.exists(path) else []
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: cannot be read ({error})") from None
        rows: list[dict[str, Any]] = []
        for number in range(1, batches + 1):
            try:
                row = parse_json(lines[number - 1])
                good = row["batch"] == number
            except (IndexError, ValueError, KeyError, TypeError):
                good = False
            if not good:
                raise RunError(f"{path}: line {number}: expected the row of batch {number}, found none")
            rows.append(row)
        return rows


def describe_run(config: TrainConfig, task: Task) -> dict[str, Any]:
    """What determines a run, as `config.json` has it."""
    return {"task": dict(task.origin), "train": config.to_dict()}


def params_sha256(model: PyTree) -> str:
    """SHA-256 of the bytes of the trained arrays, in tree order."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _lines(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Says which file it was that could not be written."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror})") from None
