"""What a run leaves behind: `config.json`, `metrics.jsonl`, `model.eqx`, `curves.png`."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from ..errors import ArgumentError, RunError
from .config import TrainConfig


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: Path

    @property
    def config(self) -> Path:
        """The `TrainConfig` as JSON."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """One JSON object a line for each batch."""
        return self.path / "metrics.jsonl"

    @property
    def model(self) -> Path:
        """The arrays of the model, by `eqx.tree_serialise_leaves`."""
        return self.path / "model.eqx"

    @property
    def curves(self) -> Path:
        """The picture of accuracy and gap."""
        return self.path / "curves.png"

    def create(self, config: TrainConfig, *, overwrite: bool = False) -> None:
        """Makes the folder and writes the configuration.

        **Errors:** `RunError` where a run is already in it; with `overwrite`, that run's files
        are deleted (and no others).
        """
        files = [self.config, self.metrics, self.model, self.curves]
        present = [file for file in files if file.exists()]
        if present and not overwrite:
            raise RunError(f"{self.path}: holds a run already ({present[0].name}); --overwrite replaces it")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for file in present:
                file.unlink()
            self.config.write_text(config.to_json() + "\n")
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written ({error.strerror})") from None

    def load_config(self) -> TrainConfig:
        """The configuration of the run. `RunError` where there is none, or it is damaged."""
        try:
            return TrainConfig.from_json(self.config.read_text())
        except OSError as error:
            raise RunError(f"{self.path}: holds no run: {self.config.name}: {error.strerror}") from None
        except ArgumentError as error:
            raise RunError(f"{self.config}: {error}") from None

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Adds one line to `metrics`."""
        with self.metrics.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def save_model(self, model: PyTree) -> None:
        """Writes the model; a killed write leaves the one before it."""
        partial = self.model.with_suffix(".partial")
        eqx.tree_serialise_leaves(partial, model)
        partial.replace(self.model)

    def load_model(self, like: PyTree) -> PyTree:
        """The saved model. `RunError` where there is none or it does not fit `like`."""
        try:
            return eqx.tree_deserialise_leaves(self.model, like)
        except FileNotFoundError:
            raise RunError(f"{self.model}: no such file: the run did not finish") from None
        except Exception as error:  # whatever equinox and numpy make of a damaged file
            raise RunError(f"{self.model}: damaged, or not the model of config.json ({error})") from None


def params_sha256(model: PyTree) -> str:
    """SHA-256 of the bytes of the trained arrays, in tree order."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
