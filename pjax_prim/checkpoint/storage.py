"""Where run folders and checkpoints are: on a file system, or in a bucket.

What differs between the two is said by `Storage`; the rest of the package asks no path of which kind it is.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from pathlib import Path, PurePath
from typing import Protocol

from ..errors import ArgumentError
from .file_system import FileSystem, Held

COMMIT = "commit_success.txt"
"""What Orbax writes last into a checkpoint that has its name from the start."""


class Storage(Protocol):
    """Files and folders, by paths of `as_path`.

    **Errors:** of every method `OSError`, whose `strerror` says in words what is wrong.
    """

    def absolute(self, path: Path) -> Path:
        """The path as other packages take it."""

    def local(self, path: Path) -> Path | None:
        """The path for packages that know only file systems; None where it is on none."""

    def exists(self, path: Path) -> bool:
        """Whether there is such a file or folder."""

    def is_file(self, path: Path) -> bool:
        """Whether there is such a file."""

    def names(self, folder: Path) -> list[str]:
        """What lies in a folder, in order; nothing in one that is not there."""

    def files(self, folder: Path) -> list[str]:
        """All files under a folder, by their paths from there, in order."""

    def size(self, path: Path) -> int:
        """Bytes of a file."""

    @property
    def checksum_kind(self) -> str:
        """The kind of checksum, of `CHECKSUMS`, that takes least here."""

    def checksum(self, path: Path, kind: str, pool: Executor) -> tuple[int, str]:
        """Bytes and checksum of a file; its blocks are read on the threads of `pool`."""

    def read(self, path: Path, start: int = 0, length: int | None = None) -> bytes:
        """A file, or the part of it from `start` on, at most `length` bytes."""

    def make(self, folder: Path) -> None:
        """Makes a folder, if it is not there."""

    def write(self, path: Path, text: str) -> None:
        """Writes a file; a killed write leaves the one before it."""

    def append(self, path: Path, text: str) -> None:
        """Adds to a file that this process alone writes."""

    def sync(self, path: Path) -> None:
        """Returns when what was added to a file, if anything, would outlive this process and machine."""

    def delete(self, path: Path) -> None:
        """Deletes a file, or a folder with all that is in it."""

    def move(self, folder: Path, target: Path) -> None:
        """Gives a folder another name, which is free."""

    def reading(self, path: Path) -> AbstractContextManager[Path]:
        """A local file with the content of this one."""

    def writing(self, path: Path) -> AbstractContextManager[Path]:
        """A local file to write; in the end its content is that of this one, at once."""

    def steps(self, folder: Path) -> list[int]:
        """The complete checkpoints that Orbax has written into a folder, in order."""

    def unfinished(self, folder: Path, step: int) -> list[Path]:
        """Where Orbax writes a checkpoint that is not complete yet."""

    def lock(self, folder: Path, say: Callable[[str], None]) -> AbstractContextManager[Held]:
        """Holds a folder against other writers (`FolderLock`)."""


_FILES = FileSystem()
_BUCKETS = {"gs": ("bucket", "Bucket", ("gcsfs", "google.cloud.storage"), "gcs")}
"""The file and class of a storage by the scheme of its paths, the packages that it takes, and their extra."""


def _check_name(text: str) -> None:
    """Refuses a local path that is other bytes in this locale's encoding than in UTF-8, which Orbax takes."""
    whole = os.path.abspath(text)
    try:
        if os.fsencode(whole) == whole.encode():
            return
    except UnicodeEncodeError:
        pass
    shown = whole.encode(errors="surrogateescape").decode(errors="replace")
    raise ArgumentError(
        f"{shown}: has characters that this locale's encoding, {sys.getfilesystemencoding()}, has not, or "
        "writes differently; set LC_ALL=C.UTF-8"
    )


def as_path(place: str | PurePath) -> Path:
    """The path of a file or folder: a `pathlib.Path`, or for `gs://bucket/...` an `etils.epath.Path`, which
    has the same methods.

    **Errors:** `ArgumentError` for another `scheme://`, for a local path that this locale cannot name, for a
    bucket where the packages of the extra `gcs` are not installed, and for a `pathlib.Path` of a bucket,
    which has lost one of its slashes.
    """
    text = os.fspath(place)
    scheme, mark, _ = text.partition("://")
    if not mark:
        if text.partition(":/")[0] in _BUCKETS:
            raise ArgumentError(
                f"{text}: expected a local path; that of a bucket is given as text, or as an epath.Path"
            )
        _check_name(text)
        return Path(text)
    if scheme not in _BUCKETS:
        known = ", ".join(f"{name}://" for name in _BUCKETS)
        raise ArgumentError(f"{text}: expected a local path, or one on {known}; others are not supported")
    _, _, packages, extra = _BUCKETS[scheme]
    for package in packages:
        if not _is_installed(package):
            raise ArgumentError(f"{text}: needs the package {package}; pip install 'pjax-prim[{extra}]'")
    from etils import epath

    path: Path = epath.Path(text)
    if len(path.parts) < 4:
        raise ArgumentError(f"{text}: expected {scheme}://BUCKET/PATH")
    return path


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of what it is a part of
        return False


def storage_of(path: Path) -> Storage:
    """The storage that a path of `as_path` is on."""
    scheme, mark, rest = os.fspath(path).partition("://")
    if not mark:
        return _FILES
    file, kind, _, _ = _BUCKETS[scheme]
    module = importlib.import_module(f".{file}", __package__)
    storage: Storage = getattr(module, kind).of(rest.partition("/")[0])
    return storage
