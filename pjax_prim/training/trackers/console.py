"""A progress bar on standard error (extra `train`)."""

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .base import Figures, TrackedRun


class Console:
    """Shows how many batches are done, and the gap or the loss of the last."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description:9}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=RichConsole(stderr=True))

    def start(self, run: TrackedRun) -> None:
        """Shows the bar."""
        self._progress.start()
        self._shown = self._progress.add_task("compiling", total=run.batches, completed=run.done, figures="")

    def log(self, batch: int, figures: Figures) -> None:
        """Moves the bar."""
        kind = "gap" if "gap" in figures else "loss"
        value = f"{figures[kind]:.2e}" if kind in figures else "not finite"
        self._progress.update(self._shown, completed=batch, description="training", figures=f"{kind} {value}")

    def finish(self, error: BaseException | None) -> None:
        """Leaves the bar as it is."""
        self._progress.stop()
