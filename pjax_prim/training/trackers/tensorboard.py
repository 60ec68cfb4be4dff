"""Event files for TensorBoard in `tensorboard/` of the run folder (extra `tensorboard`)."""

import json
import time

from tensorboardX import SummaryWriter

from ...errors import ArgumentError
from .base import Figures, TrackedRun


class TensorBoard:
    """Writes scalars; what an interrupted run wrote after its checkpoint is void."""

    def start(self, run: TrackedRun) -> None:
        """Opens an event file. `ArgumentError` for a run without a folder."""
        if run.folder is None:
            raise ArgumentError("tracker: tensorboard: needs the folder of the run")
        # Names hold whole seconds: a run resumed within one would overwrite what was written before.
        suffix = f".{time.time_ns()}"
        self._writer = SummaryWriter(
            str(run.folder.tensorboard), purge_step=run.done + 1, filename_suffix=suffix
        )
        self._writer.add_text("configuration", f"```\n{json.dumps(run.configuration, indent=2)}\n```")

    def log(self, batch: int, figures: Figures) -> None:
        """Writes the figures."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, batch)

    def finish(self, error: BaseException | None) -> None:
        """Closes the file."""
        self._writer.close()
