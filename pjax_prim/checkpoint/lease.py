"""A lock in a bucket, where no operating system drops it with its process."""

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol

from ..errors import CheckpointError
from .file_system import in_use, this_process
from .json_text import parse_json

SECONDS = 60.0
"""How long a lease lasts that is not renewed; it is renewed six times as often."""


class _Objects(Protocol):
    """What writes an object on the condition that nobody else has written it."""

    def generation(self, path: Path) -> tuple[int, bytes]: ...

    def replace(self, path: Path, generation: int, content: bytes) -> int | None: ...


class Lease:
    """The object `.lock` of a folder, which its holder writes again and again, as a context manager.

    Every write is on the condition that the object is of the generation that was read before (0: that there
    is none), so that of two processes one alone succeeds. Whether a holder is alive is seen by whether the
    generation changes, not by comparing clocks: one that has not changed for as long as it says is taken
    over. On exit the object is left with no holder.

    **Errors:** `CheckpointError` on entry where another process renews it, and where it cannot be written.
    """

    def __init__(self, objects: _Objects, folder: Path, say: Callable[[str], None]):
        self._objects, self._folder, self._say = objects, folder, say
        self._path = folder / ".lock"
        self._seconds = SECONDS
        self._content = json.dumps(
            {"holder": this_process(), "seconds": SECONDS, "token": secrets.token_hex(16)}
        ).encode()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._generation: int | None = None
        self._renewed = 0.0
        self._taken_by: str | None = None

    def __enter__(self) -> "Lease":
        try:
            self._take()
        except OSError as error:
            raise CheckpointError(f"{self._folder}: cannot be written ({error.strerror or error})") from None
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()
        return self

    def _take(self) -> None:
        generation, content = self._objects.generation(self._path)
        holder, seconds = _read(content)
        if holder is not None:
            self._say(
                f"{self._folder}: held by {holder}; waits at most {seconds:g} s for its lease to run out"
            )
            deadline = time.monotonic() + seconds
            while holder is not None and time.monotonic() < deadline:
                time.sleep(min(0.5, seconds / 20))
                found, content = self._objects.generation(self._path)
                other, _ = _read(content)
                if found != generation and other is not None:
                    raise CheckpointError(in_use(self._folder, other))
                generation, holder = found, other
        started = time.monotonic()
        self._generation = self._objects.replace(self._path, generation, self._content)
        if self._generation is None and not self._is_mine():
            raise CheckpointError(in_use(self._folder, self._taken_by or "another process"))
        self._renewed = started

    def _is_mine(self) -> bool:
        """Whether the object is this one's after all: an answer may get lost after which it was written."""
        generation, content = self._objects.generation(self._path)
        if content == self._content:
            self._generation = generation
            return True
        self._taken_by = _read(content)[0]
        return False

    def _renew(self) -> None:
        with self._lock:
            if self._generation is None or self._ended.is_set():
                return
            started = time.monotonic()
            self._generation = self._objects.replace(self._path, self._generation, self._content)
            if self._generation is not None or self._is_mine():
                self._renewed = started

    def _keep(self) -> None:
        while not self._ended.wait(self._seconds / 6):
            try:
                self._renew()
            except OSError:  # the next time, or `check` says it
                continue

    def check(self) -> None:
        """`CheckpointError` where another process has taken it, or that cannot be known."""
        try:
            if time.monotonic() - self._renewed > self._seconds / 2:
                self._renew()
        except OSError as error:
            raise CheckpointError(f"{self._folder}: cannot be written ({error.strerror or error})") from None
        if self._generation is None:
            raise CheckpointError(
                f"{self._folder}: now in use by {self._taken_by or 'another process'}: the lease of this one "
                f"was not renewed for {self._seconds:g} s"
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()  # after a renewal that is under way
        if self._generation is not None:
            with contextlib.suppress(OSError):  # it runs out by itself
                self._objects.replace(self._path, self._generation, b'{"holder": null}')


def _read(content: bytes) -> tuple[str | None, float]:
    """Who holds it, if anyone does, and for how long."""
    try:
        found = parse_json(content)
        holder = found["holder"]
        return holder, float(found["seconds"]) if holder is not None else 0.0
    except (ValueError, TypeError, KeyError):  # there is none, or that of a file system, copied
        return None, 0.0
