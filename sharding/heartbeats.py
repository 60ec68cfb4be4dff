"""Signs of life: whether the processes of a run are there, however long what they do takes."""

import atexit
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

_PLACE = "pjax_prim/alive"


class Heartbeats:
    """Counts in the key-value store as long as this process runs, and notes when others last did.

    A process that is stopped, or gone, counts no more; one that writes for an hour does.

    **Arguments:** `client`, of the store; `timeout`, the seconds after which one that does not count is gone;
    it counts twenty times as often.
    """

    def __init__(self, client: Any, timeout: float):
        self._client, self._timeout = client, timeout
        self._counts: dict[str, str] = {}
        self._heard: dict[str, float] = {}
        self._started = time.monotonic()
        self._own = str(jax.process_index())
        self._others = {str(i) for i in range(jax.process_count())} - {self._own}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeats", daemon=True)
        self._thread.start()
        atexit.register(self.end)  # a thread that the interpreter ends within the store's client aborts

    def end(self) -> None:
        """Counts no more."""
        self._ended.set()
        self._thread.join(timeout=2.0)

    def _beat(self) -> None:
        number = 0
        while not self._ended.is_set():
            with contextlib.suppress(Exception):  # of a store that does not answer: nothing is heard, then
                self._client.key_value_set(f"{_PLACE}/{self._own}", str(number), allow_overwrite=True)
                for key, count in self._client.key_value_dir_get(_PLACE):
                    process = key.rpartition("/")[2]
                    if self._counts.get(process) != count:
                        self._counts[process], self._heard[process] = count, time.monotonic()
            number += 1
            self._ended.wait(self._timeout / 20)

    def silent(self, since: float) -> bool:
        """Whether one of the others has not counted for `timeout` seconds, of those since then."""
        now = time.monotonic()
        heard = (self._heard.get(process, self._started) for process in self._others)
        return any(now - max(last, since) > self._timeout for last in heard)

    @contextlib.contextmanager
    def watching(self, ends: Callable[[], None]) -> Iterator[None]:
        """Calls `ends` from a thread where one of the others falls silent."""
        done, since = threading.Event(), time.monotonic()

        def watch() -> None:
            while not done.wait(self._timeout / 20):
                if self.silent(since):
                    ends()
                    return

        thread = threading.Thread(target=watch, name="watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
