"""A line of JSON for each batch on standard output, for collectors of logs."""

import json

from .base import Figures, TrackedRun


class JsonLines:
    """Prints first the configuration, and then of each batch its number and figures."""

    def start(self, run: TrackedRun) -> None:
        """Prints the name and the configuration of the run."""
        print(json.dumps({"run": run.name, "configuration": run.configuration}), flush=True)

    def log(self, batch: int, figures: Figures) -> None:
        """Prints the batch."""
        print(json.dumps({"batch": batch, **figures}), flush=True)

    def finish(self, error: BaseException | None) -> None:
        """Prints nothing more."""
