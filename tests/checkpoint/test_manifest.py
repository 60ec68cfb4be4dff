import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pjax_prim.checkpoint import checksums, manifest, storage_of
from pjax_prim.errors import CheckpointError


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with files of none, one and several blocks."""
    monkeypatch.setattr(checksums, "_BLOCK", 16)
    (tmp_path / "deep").mkdir()
    for name, size in (("empty", 0), ("one", 16), ("deep/several", 40)):
        (tmp_path / name).write_bytes(bytes(range(size)))
    for name in ("_CHECKPOINT_METADATA", "commit_success.txt"):
        (tmp_path / name).write_text("{}")
    manifest.write_manifest(tmp_path, {"step": 3})
    return tmp_path


def damage(folder: Path) -> str | None:
    return manifest.damage(folder, manifest.read_manifest(folder)["files"].items())


def test_every_byte_counts(folder: Path) -> None:
    assert manifest.read_manifest(folder)["info"] == {"step": 3} and damage(folder) is None
    path = folder / "deep" / "several"
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + b"\xff" + content[place + 1 :])
        assert damage(folder) == f"{path}: damaged: its content does not match its checksum"
    path.write_bytes(content[16:32] + content[:16] + content[32:])
    assert damage(folder) is not None
    path.write_bytes(content + b"\0")
    assert damage(folder) == f"{path}: damaged: expected 40 bytes, found 41"
    path.write_bytes(content)
    (folder / "empty").unlink()
    assert damage(folder) == f"{folder / 'empty'}: cannot be read (No such file or directory)"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"step": 3', '"step": 4', "damaged: its content does not match its checksum"),
        ('"bytes": 16', '"bytes": 17', "damaged: its content does not match its checksum"),
        ('"format": 1', '"format": 2', "expected format 1, found 2"),
        ('"files"', '"file"', "damaged: not as it was written"),
        ("{", "", "damaged: not as it was written"),
    ],
)
def test_the_manifest_itself(folder: Path, old: str, new: str, message: str) -> None:
    path = folder / manifest.NAME
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(CheckpointError, match=re.escape(f"{path}: {message}")):
        manifest.read_manifest(folder)


def test_checksums_of_a_bucket(tmp_path, monkeypatch) -> None:
    pytest.importorskip("google_crc32c", reason="needs the extra gcs")
    monkeypatch.setattr(checksums, "_BLOCK", 4)
    path = tmp_path / "file"
    path.write_bytes(b"123456789")
    with ThreadPoolExecutor() as pool:
        # The check value of CRC-32C (Castagnoli), e3069283.
        assert storage_of(path).checksum(path, "crc32c", pool) == (9, "4waSgw==")
        monkeypatch.setitem(sys.modules, "google_crc32c", None)
        with pytest.raises(OSError, match=r"needs the package google-crc32c; pip install 'pjax-prim\[gcs\]'"):
            storage_of(path).checksum(path, "crc32c", pool)
