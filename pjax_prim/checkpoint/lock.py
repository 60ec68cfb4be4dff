"""One writer per run folder."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from .file_system import Held
from .storage import as_path, storage_of


class FolderLock:
    """Holds a folder against other writers, as a context manager. Readers need no lock.

    On a file system the lock ends with the process, however that ends. In a bucket it is a lease that the
    holder renews: after a process that was killed the next one waits until the lease has run out, and a
    process that could not renew it in time may have lost it (docs/checkpoints.md).

    **Arguments:** `say`: takes what is worth telling while it waits.

    **Errors:** `CheckpointError` on entry, where another process holds it.
    """

    def __init__(self, folder: str | Path, say: Callable[[str], None] = lambda message: None):
        self.path = as_path(folder) / ".lock"
        self._say = say
        self._stack = ExitStack()
        self._held: Held | None = None

    def __enter__(self) -> "FolderLock":
        folder = self.path.parent
        self._held = self._stack.enter_context(storage_of(folder).lock(folder, self._say))
        return self

    def check(self) -> None:
        """`CheckpointError` where another process has taken the folder."""
        if self._held is not None:
            self._held.check()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held = None
        self._stack.__exit__(kind, error, trace)
