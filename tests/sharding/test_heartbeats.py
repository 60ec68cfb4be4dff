"""Whether the other processes are there."""

import threading

import jax
import pytest
from pjax_prim.sharding import heartbeats
from pjax_prim.sharding.heartbeats import Heartbeats

TIMEOUT = 0.02


class Store:
    """A key-value store in which another process counts, or does not; reading it takes a while."""

    def __init__(self) -> None:
        self.reads = 0
        self.is_alive, self.answers = True, True
        self.other = 0
        self.values: dict[str, str] = {}

    def key_value_set(self, key: str, value: str, allow_overwrite: bool) -> None:
        assert allow_overwrite
        self.values[key] = value

    def key_value_dir_get(self, place: str) -> list[tuple[str, str]]:
        self.reads += 1
        self.other += self.is_alive
        if not self.answers:
            raise jax.errors.JaxRuntimeError("UNAVAILABLE")
        return [*self.values.items(), (f"{place}/1", str(self.other))]


@pytest.mark.parametrize("how", ["is_alive", "answers"])
def test_silence_is_noticed(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(heartbeats.time, "monotonic", lambda: 0.3 * TIMEOUT * store.reads)
    ended = threading.Event()
    beats = Heartbeats(store, TIMEOUT)
    with beats.watching(ended.set):
        while store.reads < 50:  # many time-outs
            assert not ended.wait(0.001)
        setattr(store, how, False)
        assert ended.wait(60)
    beats.end()
    assert int(store.values["pjax_prim/alive/0"]) > 40
