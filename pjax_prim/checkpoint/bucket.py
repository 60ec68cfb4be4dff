"""Run folders and checkpoints in a bucket of Google Cloud Storage."""

import contextlib
import errno
import functools
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import fsspec
from google.api_core import exceptions as answers
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY
from requests.exceptions import RequestException

from .checksums import CHECKSUMS
from .file_system import Held
from .lease import Lease
from .storage import COMMIT

_RETRY = DEFAULT_RETRY.with_timeout(60.0)
_OPTIONS: dict[str, Any] = {"retry": _RETRY, "timeout": (10.0, 60.0)}
_NO_CREDENTIALS = "no credentials: `gcloud auth application-default login` makes them"
_UPLOAD_SECONDS = 60.0
"""So often files that grow are uploaded between two calls of `sync`."""


class Bucket:
    """See `Storage`. An object is there whole or not at all, and there are no folders but by the names of
    objects, no renaming and no appending: a file that grows is kept in memory and uploaded as a whole; a
    checkpoint has its name from the start and counts when Orbax has written its last object.

    Its own client reads and writes: it tells its retries, sees at once what others have written, and writes
    on conditions, which `etils.epath` does not.
    """

    def __init__(self, name: str):
        # Orbax lists by gcsfs, which would not see what others have written since it last did.
        fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
        self.name = name
        self._growing: dict[str, _Growing] = {}

    @classmethod
    @functools.cache
    def of(cls, name: str) -> "Bucket":
        """The bucket of that name, one object for it in a process."""
        return cls(name)

    @functools.cached_property
    def _bucket(self) -> storage.Bucket:
        return storage.Client().bucket(self.name)

    def _key(self, path: Path) -> str:
        return os.fspath(path).partition("://")[2].partition("/")[2]

    def _list(self, path: Path, **options: Any) -> Any:
        return self._bucket.list_blobs(prefix=f"{self._key(path)}/", **_OPTIONS, **options)

    @contextlib.contextmanager
    def _asking(self, path: Path) -> Iterator[None]:
        """Turns whatever an answer may be into an `OSError`."""
        try:
            yield
        except DefaultCredentialsError:
            raise PermissionError(errno.EACCES, _NO_CREDENTIALS, str(path)) from None
        except (answers.Forbidden, answers.Unauthorized) as error:
            raise PermissionError(errno.EACCES, f"not allowed: {_first_line(error)}", str(path)) from None
        except answers.NotFound:
            what = "object" if self._is_there() else f"bucket {self.name}"
            raise FileNotFoundError(errno.ENOENT, f"no such {what}", str(path)) from None
        except (answers.GoogleAPIError, GoogleAuthError, RequestException, OSError) as error:
            if isinstance(error, OSError) and error.strerror and not isinstance(error, RequestException):
                raise
            reason = f"bucket {self.name} cannot be reached: {_first_line(error)}"
            raise OSError(errno.EIO, reason, str(path)) from None

    def _is_there(self) -> bool:
        try:
            next(iter(self._bucket.list_blobs(max_results=1, **_OPTIONS)), None)
            return True
        except answers.NotFound:
            return False
        except answers.GoogleAPIError:  # such as where listing is not allowed
            return True

    def absolute(self, path: Path) -> Path:
        return path

    def local(self, path: Path) -> Path | None:
        return None

    def exists(self, path: Path) -> bool:
        if self.is_file(path):
            return True
        with self._asking(path):
            return next(iter(self._list(path, max_results=1)), None) is not None

    def is_file(self, path: Path) -> bool:
        with self._asking(path):
            return bool(self._bucket.blob(self._key(path)).exists(**_OPTIONS))

    def names(self, folder: Path) -> list[str]:
        with self._asking(folder):
            found = self._list(folder, delimiter="/")
            objects = [blob.name for blob in found]
            start = len(self._key(folder)) + 1
            return sorted(name[start:].rstrip("/") for name in (*objects, *found.prefixes) if name[start:])

    def files(self, folder: Path) -> list[str]:
        with self._asking(folder):
            start = len(self._key(folder)) + 1
            return sorted(blob.name[start:] for blob in self._list(folder) if not blob.name.endswith("/"))

    def size(self, path: Path) -> int:
        return int(self._described(path).size)

    def _described(self, path: Path) -> storage.Blob:
        with self._asking(path):
            blob = self._bucket.blob(self._key(path))
            blob.reload(**_OPTIONS)
            return blob

    checksum_kind = "crc32c"

    def checksum(self, path: Path, kind: str, pool: Executor) -> tuple[int, str]:
        """The checksum of an object; one of the bucket's own kind was computed when it was written."""
        blob = self._described(path)
        if kind == self.checksum_kind:
            return int(blob.size), str(blob.crc32c)
        return int(blob.size), CHECKSUMS[kind](functools.partial(self.read, path), int(blob.size), pool)

    def read(self, path: Path, start: int = 0, length: int | None = None) -> bytes:
        with self._asking(path):
            last = None if length is None else start + length - 1
            blob = self._bucket.blob(self._key(path))
            try:
                found: bytes = blob.download_as_bytes(start=start or None, end=last, **_OPTIONS)
            except answers.RequestRangeNotSatisfiable:  # from its end on there is nothing
                return b""
            return found

    def make(self, folder: Path) -> None:
        """Asks the bucket whether it is there."""
        with self._asking(folder):
            next(iter(self._list(folder, max_results=1)), None)

    def write(self, path: Path, text: str) -> None:
        self._growing.pop(self._key(path), None)
        self._upload(path, text)

    def _upload(self, path: Path, text: str) -> None:
        with self._asking(path):
            blob = self._bucket.blob(self._key(path))
            blob.upload_from_string(text.encode(), content_type="text/plain; charset=utf-8", **_OPTIONS)

    def append(self, path: Path, text: str) -> None:
        growing = self._growing.get(self._key(path))
        if growing is None:
            before = self.read(path).decode() if self.exists(path) else ""
            growing = self._growing[self._key(path)] = _Growing(before)
        growing.add(text)
        if growing.age() >= _UPLOAD_SECONDS:
            with contextlib.suppress(OSError):  # the next `sync` says it
                self.sync(path)

    def sync(self, path: Path) -> None:
        growing = self._growing.get(self._key(path))
        if growing is not None and growing.is_new:
            self._upload(path, growing.whole())
            growing.uploaded()

    def delete(self, path: Path) -> None:
        self._growing.pop(self._key(path), None)
        with self._asking(path):
            self._delete([self._key(path), *(blob.name for blob in self._list(path))])

    def _delete(self, keys: list[str]) -> None:
        keys.sort(key=lambda key: not key.endswith(f"/{COMMIT}"))  # what is cut short counts no more
        for key in keys:
            with contextlib.suppress(answers.NotFound):
                self._bucket.blob(key).delete(**_OPTIONS)

    def move(self, folder: Path, target: Path) -> None:
        """Copies the objects, which the bucket does by itself, and deletes the old ones."""
        with self._asking(folder):
            found = list(self._list(folder))
            old, new = self._key(folder), self._key(target)
            for blob in found:
                copy = self._bucket.blob(new + blob.name.removeprefix(old))
                token, *_ = copy.rewrite(blob, **_OPTIONS)
                while token is not None:
                    token, *_ = copy.rewrite(blob, token=token, **_OPTIONS)
            self._delete([blob.name for blob in found])

    @contextlib.contextmanager
    def reading(self, path: Path) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="pjax-prim-") as place:
            file = Path(place) / path.name
            with self._asking(path):
                self._bucket.blob(self._key(path)).download_to_filename(str(file), **_OPTIONS)
            yield file

    @contextlib.contextmanager
    def writing(self, path: Path) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="pjax-prim-") as place:
            file = Path(place) / f"{path.name}.partial"
            yield file
            with self._asking(path):
                self._bucket.blob(self._key(path)).upload_from_filename(str(file), **_OPTIONS)

    def steps(self, folder: Path) -> list[int]:
        found = (int(name) for name in self.names(folder) if name.isdecimal())
        return sorted(step for step in found if self._is_complete(folder, step))

    def unfinished(self, folder: Path, step: int) -> list[Path]:
        place = folder / str(step)
        return [place] if not self._is_complete(folder, step) and self.exists(place) else []

    def _is_complete(self, folder: Path, step: int) -> bool:
        return self.exists(folder / str(step) / COMMIT)

    @contextlib.contextmanager
    def lock(self, folder: Path, say: Callable[[str], None]) -> Iterator[Held]:
        """Holds a folder by a lease in the object `.lock`."""
        with Lease(self, folder, say) as held:
            yield held

    def generation(self, path: Path) -> tuple[int, bytes]:
        """An object's generation and content; 0 and nothing for one that is not there."""
        with self._asking(path):
            blob = self._bucket.get_blob(self._key(path), **_OPTIONS)
            if blob is None:
                return 0, b""
            try:
                content = blob.download_as_bytes(if_generation_match=blob.generation, **_OPTIONS)
                return int(blob.generation), content
            except (answers.NotFound, answers.PreconditionFailed):  # replaced in between
                return self.generation(path)

    def replace(self, path: Path, generation: int, content: bytes) -> int | None:
        """Writes an object if it is of this generation (0: if it is not there); returns the new one, None
        where it is of another."""
        with self._asking(path):
            blob = self._bucket.blob(self._key(path))
            try:
                blob.upload_from_string(content, if_generation_match=generation, **_OPTIONS)
            except answers.PreconditionFailed:
                return None
            return int(blob.generation)


class _Growing:
    """A file that is added to: all of it, in parts."""

    def __init__(self, before: str):
        self._parts = [before]
        self._since = time.monotonic()
        self.is_new = False
        """Whether something was added since it was uploaded."""

    def add(self, text: str) -> None:
        self._parts.append(text)
        self.is_new = True

    def age(self) -> float:
        return time.monotonic() - self._since

    def whole(self) -> str:
        self._parts = ["".join(self._parts)]
        return self._parts[0]

    def uploaded(self) -> None:
        self.is_new, self._since = False, time.monotonic()


def _first_line(error: BaseException) -> str:
    """What an error says first, and of one that others led to, what the first of these says."""
    cause = error.cause if isinstance(error, answers.RetryError) else error
    line = (str(cause).splitlines() or [""])[0] or type(cause).__name__
    inner = re.search(r"Caused by \w+\((.*)\)\)", line)
    return inner[1].strip("'\"") if inner else line
