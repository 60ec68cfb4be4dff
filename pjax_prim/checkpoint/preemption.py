"""Being asked to stop."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils

from .._compat import has_preemption_service

EXIT_CODE = 75
"""Exit status of a run that saved and stopped because it was asked to: "temporary failure, try
again" (EX_TEMPFAIL of sysexits.h)."""


class Preemption:
    """Notices SIGTERM, as a context manager; `reached` tells.

    In one process it installs a handler for its duration (in the main thread; elsewhere nothing
    is noticed). With several processes JAX's coordination service notices the signal on any of
    them, and `reached` becomes true on all at the same poll.
    """

    def __init__(self) -> None:
        self._asked = False
        self._polls = 0
        self._previous: Any = None
        self._installed = False

    def __enter__(self) -> "Preemption":
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._handle)
            self._installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._installed:
            signal.signal(signal.SIGTERM, self._previous)
            self._installed = False

    def reached(self) -> bool:
        """Whether to save and stop. To be polled by all processes together."""
        if jax.process_count() > 1:
            if not has_preemption_service():
                return False
            self._polls += 1
            return bool(multihost_utils.reached_preemption_sync_point(self._polls))
        return self._asked

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
