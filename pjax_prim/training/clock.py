"""Where the time of a run goes."""

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Seconds by what they went to.

    `steps` (handing steps to the devices and waiting for their metrics), `data`, `compile`, `evaluate`,
    `save`.

    **Arguments:** `now`: seconds that never go back; another for tests.
    """

    def __init__(self, now=time.perf_counter):  # type: ignore[no-untyped-def]
        self._now = now
        self.seconds = dict.fromkeys(("steps", "data", "compile", "evaluate", "save"), 0.0)

    @contextlib.contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Counts the time of its block for `what`."""
        began = self._now()
        try:
            yield
        finally:
            self.seconds[what] += self._now() - began
