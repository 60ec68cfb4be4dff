"""A line of JSON for each batch on standard output, for collectors of logs."""

import json

from .base import Figures, TrackedRun


class JsonLines:
    """Prints the configuration before the first batch, and of each batch its number and figures."""

    def __init__(self) -> None:
        self._run: TrackedRun | None = None  # that is still to be printed

    def start(self, run: TrackedRun) -> None:
        """Prints nothing yet: where nobody reads it, that ends the tracker and not the run."""
        self._run = run

    def log(self, batch: int, figures: Figures) -> None:
        """Prints the batch, and before the first the name and the configuration of the run."""
        if self._run is not None:
            run, self._run = self._run, None
            print(json.dumps({"run": run.name, "configuration": run.configuration}), flush=True)
        print(json.dumps({"batch": batch, **figures}), flush=True)

    def finish(self, error: BaseException | None) -> None:
        """Prints nothing more."""
