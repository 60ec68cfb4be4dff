"""Weights & Biases (extra `wandb`). Its own environment says where and how: WANDB_MODE, WANDB_PROJECT, ..."""

import os
from typing import Any

import wandb

from .base import Figures, TrackedRun


class WeightsAndBiases:
    """Logs to a run of the project WANDB_PROJECT (`pjax-prim` if it is not set), and to the same after a
    resume.

    Figures are drawn over `batch`, so that batches that come once more after a resume fall on themselves.
    """

    def start(self, run: TrackedRun) -> str:
        """Begins a run, or goes on with the one of `run.identity`, its id."""
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "pjax-prim"),
            # In `wandb/` there; of a run in a bucket, in `wandb/` here.
            dir=None if run.folder is None else run.folder.storage.local(run.folder.path),
            name=run.name if run.folder is None else run.folder.path.name,
            id=run.identity,
            resume=None if run.identity is None else "allow",
            config=dict(run.configuration),
            allow_val_change=True,
            settings=wandb.Settings(console="off"),  # else it would record the progress bar
        )
        self._run.define_metric("batch")
        self._run.define_metric("*", step_metric="batch")
        return str(self._run.id)

    def log(self, batch: int, figures: Figures) -> None:
        """Hands the figures to its own process, which sends them."""
        self._run.log({"batch": batch, **figures})

    def finish(self, error: BaseException | None) -> None:
        """Ends the run: as crashed, unless it reached its last batch."""
        self._run.finish(exit_code=0 if error is None else 1)
