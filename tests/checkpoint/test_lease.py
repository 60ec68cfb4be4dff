"""A lock by an object that its holder renews."""

import json
from pathlib import Path

import pytest

from pjax_prim.checkpoint import lease
from pjax_prim.checkpoint.lease import Lease
from pjax_prim.errors import CheckpointError

FOLDER = Path("bucket/run")


class Objects:
    """One object, written on the condition of its generation."""

    def __init__(self) -> None:
        self.number, self.content = 0, b""
        self.is_down = False
        self.answers = True

    def generation(self, path: Path) -> tuple[int, bytes]:
        assert path == FOLDER / ".lock"
        if self.is_down:
            raise OSError(5, "cannot be reached")
        return self.number, self.content

    def replace(self, path: Path, generation: int, content: bytes) -> int | None:
        if self.is_down:
            raise OSError(5, "cannot be reached")
        if generation != self.number:
            return None
        self.number, self.content = self.number + 1, content
        return self.number if self.answers else None


def hold(objects: Objects, said: list[str] | None = None) -> Lease:
    return Lease(objects, FOLDER, [].append if said is None else said.append)


def test_one_holder(monkeypatch) -> None:
    monkeypatch.setattr(lease, "SECONDS", 0.6)
    objects = Objects()
    with hold(objects) as first:
        said: list[str] = []
        with (
            pytest.raises(CheckpointError, match="bucket/run: in use by process .* one writer"),
            hold(objects, said),
        ):
            pass
        assert "waits at most 0.6 s for its lease to run out" in said[0]
        first.check()
    assert json.loads(objects.content) == {"holder": None}
    said.clear()
    with hold(objects, said):  # what was given back is taken at once
        assert not said
    objects.replace(FOLDER, objects.number, b"process 1 on a\n")  # of a file system, copied
    with hold(objects, said):
        assert not said


def test_a_holder_that_is_gone_is_followed(monkeypatch) -> None:
    monkeypatch.setattr(lease, "SECONDS", 0.05)
    objects = Objects()
    objects.replace(FOLDER, 0, b'{"holder": "process 1 on a", "seconds": 0.05, "token": "x"}')
    with hold(objects):
        assert "process 1 on a" not in objects.content.decode()


def test_a_lease_that_was_lost_is_noticed(monkeypatch) -> None:
    monkeypatch.setattr(lease, "SECONDS", 1e6)  # its thread does nothing here
    objects = Objects()
    with pytest.raises(CheckpointError, match="now in use by process 2 on b"), hold(objects) as held:
        objects.replace(FOLDER, objects.number, b'{"holder": "process 2 on b", "seconds": 9, "token": "y"}')
        held.check()  # renewed lately
        monkeypatch.setattr(held, "_renewed", held._renewed - 1e6)
        held.check()
    assert b"process 2 on b" in objects.content  # left to who has it


def test_an_answer_that_was_lost(monkeypatch) -> None:
    monkeypatch.setattr(lease, "SECONDS", 1e6)
    objects = Objects()
    objects.answers = False
    with hold(objects) as held:
        monkeypatch.setattr(held, "_renewed", held._renewed - 1e6)
        held.check()
        objects.is_down = True
        monkeypatch.setattr(held, "_renewed", held._renewed - 1e6)
        with pytest.raises(CheckpointError, match=r"cannot be written \(cannot be reached\)"):
            held.check()
    with pytest.raises(CheckpointError, match=r"cannot be written \(cannot be reached\)"), hold(objects):
        pass
