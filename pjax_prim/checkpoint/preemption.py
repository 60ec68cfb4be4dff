"""Being asked to stop."""

import signal
import threading
import warnings
from types import FrameType, TracebackType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from .._compat import has_preemption_service

EXIT_CODE = 75
"""Exit status of a run that saved and stopped because it was asked to: "temporary failure, try
again" (EX_TEMPFAIL of sysexits.h)."""


class Preemption:
    """Notices SIGTERM, as a context manager; `reached` tells.

    It installs a handler for its duration (in the main thread; elsewhere nothing is noticed). With
    several processes JAX's preemption service notices the signal on any of them, and `reached` becomes
    true on all at the same poll; where the service is off, they tell each other at every poll.
    """

    def __init__(self) -> None:
        self._asked = False
        self._polls = 0
        self._has_service = False
        self._warned = False
        self._previous: Any = None
        self._installed = False

    def __enter__(self) -> "Preemption":
        self._has_service = jax.process_count() > 1 and has_preemption_service()
        if not self._has_service and threading.current_thread() is threading.main_thread():
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
        if self._has_service:
            self._polls += 1
            try:
                return bool(multihost_utils.reached_preemption_sync_point(self._polls))
            except (RuntimeError, ValueError) as error:  # of a service that ends, or is another than it was
                self._warn(error)
                return False
        if jax.process_count() > 1:
            return bool(multihost_utils.process_allgather(np.array(self._asked)).any())
        return self._asked

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            warnings.warn(
                f"preemption: JAX's service does not answer ({reason}); this process may not notice that it "
                "is to stop, and what is after the last checkpoint would be lost",
                RuntimeWarning,
                stacklevel=3,
            )

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
