"""What Orbax and tensorstore print beside the errors that they raise: nothing, while a writer is open."""

import logging
import sys
from typing import Any

_ABSL, _GCSFS = logging.getLogger("absl"), logging.getLogger("gcsfs")


class Quiet:
    """Keeps the writing of checkpoints from printing; every failure is raised as an error.

    Threads of a save that failed, or that the end of a run overtakes, go on for a while: they log, and call
    an event loop that is closed, where nobody takes the error. So it ends only after what went well.
    """

    def begin(self) -> None:
        """Leaves such errors out from now on."""
        _ABSL.addFilter(_without_orbax)
        _GCSFS.addFilter(_without_any)
        self._before = sys.unraisablehook
        sys.unraisablehook = self._hook

    def end(self) -> None:
        """Leaves things as they were, unless others have put a hook in place of its own."""
        _ABSL.removeFilter(_without_orbax)
        _GCSFS.removeFilter(_without_any)
        if sys.unraisablehook == self._hook:
            sys.unraisablehook = self._before

    def _hook(self, lost: Any) -> None:
        if not (lost.exc_type is RuntimeError and str(lost.exc_value) == "Event loop is closed"):
            self._before(lost)


def _without_any(record: logging.LogRecord) -> bool:
    """Drops whatever a client logs of requests that failed, with their tracebacks."""
    return False


def _without_orbax(record: logging.LogRecord) -> bool:
    """Drops Orbax's log."""
    return "orbax" not in record.pathname
