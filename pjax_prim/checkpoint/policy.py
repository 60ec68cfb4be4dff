"""When to save, and which checkpoints to keep."""

import math
import time
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import multihost_utils

from ..errors import ArgumentError


@dataclass(frozen=True)
class SavePolicy:
    """When a run saves, besides at its end and when it is asked to stop.

    - `every`: after each so many batches.
    - `seconds`: at the first opportunity after so many seconds since the last save began, also
      within a batch.

    **Errors:** `ArgumentError` for a value out of range.
    """

    every: int | None = None
    seconds: float | None = 600.0

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise ArgumentError(f"checkpoint_every: expected at least 1, given {self.every}")
        if self.seconds is not None and not (self.seconds >= 0 and math.isfinite(self.seconds)):
            raise ArgumentError(
                f"checkpoint_seconds: expected a finite number of at least 0, given {self.seconds}"
            )

    def is_due(self, batches: int | None, last: float) -> bool:
        """Whether to save now. The same on all processes, which must ask together.

        **Arguments:** `batches` finished, None within a batch; `last`, when the last save began
        (`time.monotonic()`).
        """
        if self.every is not None and batches is not None and batches % self.every == 0:
            return True
        if self.seconds is None:
            return False
        late = time.monotonic() - last >= self.seconds
        if jax.process_count() > 1:  # clocks differ: the first process decides
            late = bool(multihost_utils.broadcast_one_to_all(np.array(late)))
        return late


@dataclass(frozen=True)
class Retention:
    """Which checkpoints to keep; one is deleted when no rule keeps it.

    - `latest`: so many newest ones, at least 1.
    - `every`: each whose step is a multiple.
    - `best`: so many with the largest value of the metric `metric` (of those saved with one).

    **Errors:** `ArgumentError` for a value out of range.
    """

    latest: int = 2
    every: int | None = None
    best: int = 0
    metric: str = "test_accuracy"

    def __post_init__(self) -> None:
        for name, value, least in (
            ("keep_latest", self.latest, 1),
            ("keep_every", self.every, 1),
            ("keep_best", self.best, 0),
        ):
            if value is not None and value < least:
                raise ArgumentError(f"{name}: expected at least {least}, given {value}")
