"""Run folders and checkpoints on a file system."""

import contextlib
import errno
import fcntl
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Protocol

from ..errors import CheckpointError
from .checksums import CHECKSUMS

_PARTIAL = ".orbax-checkpoint-tmp"


class Held(Protocol):
    """A folder that is held against other writers."""

    def check(self) -> None:
        """`CheckpointError` where it is held no more."""


class FileSystem:
    """See `Storage`. A file is replaced by renaming another; a checkpoint gets its name when it is whole."""

    def absolute(self, path: Path) -> Path:
        return path.absolute()

    def local(self, path: Path) -> Path | None:
        return path

    def exists(self, path: Path) -> bool:
        return path.exists()

    def is_file(self, path: Path) -> bool:
        return path.is_file()

    def names(self, folder: Path) -> list[str]:
        return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []

    def files(self, folder: Path) -> list[str]:
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

    def size(self, path: Path) -> int:
        return path.stat().st_size

    checksum_kind = "sha256"

    def checksum(self, path: Path, kind: str, pool: Executor) -> tuple[int, str]:
        size = self.size(path)
        return size, CHECKSUMS[kind](partial(self.read, path), size, pool)

    def read(self, path: Path, start: int = 0, length: int | None = None) -> bytes:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            if length is None:
                return file.readall()
            parts = []
            while length and (part := file.read(length)):
                parts.append(part)
                length -= len(part)
            return b"".join(parts)

    def make(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, path: Path, text: str) -> None:
        partial = path.with_name(path.name + ".partial")
        with partial.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def append(self, path: Path, text: str) -> None:
        with path.open("a") as file:
            file.write(text)

    def sync(self, path: Path) -> None:
        if path.exists():
            with path.open("rb") as file:
                os.fsync(file.fileno())

    def delete(self, path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    def move(self, folder: Path, target: Path) -> None:
        folder.rename(target)

    @contextlib.contextmanager
    def reading(self, path: Path) -> Iterator[Path]:
        if not path.is_file():
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        yield path

    @contextlib.contextmanager
    def writing(self, path: Path) -> Iterator[Path]:
        if not path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, "no such folder", str(path))
        partial = path.with_name(path.name + ".partial")
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def steps(self, folder: Path) -> list[int]:
        return sorted(int(name) for name in self.names(folder) if name.isdecimal())

    def unfinished(self, folder: Path, step: int) -> list[Path]:
        return [folder / name for name in self.names(folder) if name.startswith(f"{step}{_PARTIAL}")]

    @contextlib.contextmanager
    def lock(self, folder: Path, say: Callable[[str], None]) -> Iterator[Held]:
        """Holds a folder by the operating system, which drops the lock with the process, however that ends.

        The file `.lock` stays and says who held it last.
        """
        try:
            file = (folder / ".lock").open("a+")
        except OSError as error:
            raise CheckpointError(f"{folder}: cannot be written ({error.strerror})") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise CheckpointError(in_use(folder, holder)) from None
            file.truncate(0)
            file.write(f"{this_process()}\n")
            file.flush()
            yield _Kept()


class _Kept:
    """A lock that nobody can take away."""

    def check(self) -> None:
        return None


def this_process() -> str:
    """How a lock names who holds it."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def in_use(folder: Path, holder: str) -> str:
    """What the second writer of a folder is told."""
    return f"{folder}: in use by {holder}; a run folder takes one writer at a time"
