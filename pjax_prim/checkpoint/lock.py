"""One writer per run folder."""

import fcntl
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import IO

from ..errors import CheckpointError


class FolderLock:
    """Holds a folder against other writers, as a context manager.

    The operating system drops the lock with the process, however that ends; the file `.lock`
    stays and says who held it last. Readers need no lock.

    **Errors:** `CheckpointError` on entry, where another process holds it.
    """

    def __init__(self, folder: Path):
        self.path = folder / ".lock"
        self._file: IO[str] | None = None

    def __enter__(self) -> "FolderLock":
        try:
            file = self.path.open("a+")
        except OSError as error:
            raise CheckpointError(f"{self.path.parent}: cannot be written ({error.strerror})") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise CheckpointError(
                f"{self.path.parent}: in use by {holder}; a run folder takes one writer at a time"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        self._file = file
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
