"""Metrics of a run for TensorBoard (extra `tensorboard`)."""

from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import ArgumentError


class TensorBoard:
    """Writes each row of a run's metrics to event files; a context manager.

    **Arguments:** `folder`: of the event files.

    **Errors:** `ArgumentError` where the package tensorboardX is not installed.
    """

    def __init__(self, folder: Path):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ArgumentError(
                "tensorboard: needs the package tensorboardX; install pjax-prim[tensorboard]"
            ) from None
        self._make = lambda first: SummaryWriter(str(folder), purge_step=first)
        self._writer: Any = None

    def __call__(self, row: dict[str, Any]) -> None:
        """Writes the numbers of a row at its batch. What an interrupted run wrote from there on is void."""
        if self._writer is None:
            self._writer = self._make(row["batch"])
        for name, value in row.items():
            if name != "batch" and value is not None:
                self._writer.add_scalar(name, value, row["batch"])

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
