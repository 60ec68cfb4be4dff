"""`checkpoint.json`: what a checkpoint is, and the checksum of each of its files.

It is written into the folder of a checkpoint before that folder gets its final name, so that a
checkpoint has either all of its files and this one, or does not exist.
"""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

NAME = "checkpoint.json"
_FORMAT = 1
_CHUNK = 1 << 22
# Orbax finishes these after the checksums are taken; no array is in them.
_METADATA, _COMMIT = "_CHECKPOINT_METADATA", "commit_success.txt"


def write_manifest(folder: Path, info: dict[str, Any]) -> None:
    """Records `info` and the size and SHA-256 of every file in `folder`.

    **Cost:** reads the files once, on several threads.
    """
    late = (folder / _METADATA, folder / _COMMIT)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path not in late)
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(_digest, files))
    described = {
        "info": info,
        "files": {
            str(path.relative_to(folder)): {"bytes": size, "sha256": digest}
            for path, (size, digest) in zip(files, digests, strict=True)
        },
    }
    content = {"format": _FORMAT, **described, "sha256": _digest_json(described)}
    (folder / NAME).write_text(json.dumps(content, indent=1) + "\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of `checkpoint.json`.

    **Errors:** `CheckpointError` where it is absent, damaged or of a later format.
    """
    path = folder / NAME
    try:
        content = json.loads(path.read_text())
        form, digest = content["format"], content["sha256"]
        good = digest == _digest_json({name: content[name] for name in ("info", "files")})
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, KeyError):
        raise CheckpointError(f"{path}: damaged: not as it was written") from None
    if form != _FORMAT:
        raise CheckpointError(f"{path}: expected format {_FORMAT}, found {form!r}")
    if not good:
        raise CheckpointError(f"{path}: damaged: its content does not match its checksum")
    found: dict[str, Any] = content
    return found


def damage(folder: Path, files: Iterable[tuple[str, dict[str, Any]]]) -> str | None:
    """What is wrong with the first damaged file among `files` of a manifest; None if nothing is.

    Orbax's own two files, of which nothing is read, must be there and in form.

    **Cost:** reads the files once, on several threads.
    """

    def check(item: tuple[str, dict[str, Any]]) -> str | None:
        name, expected = item
        path = folder / name
        try:
            size = path.stat().st_size
            if size != expected["bytes"]:
                return f"{path}: damaged: expected {expected['bytes']} bytes, found {size}"
            if _digest(path)[1] != expected["sha256"]:
                return f"{path}: damaged: its content does not match its checksum"
        except OSError as error:
            return f"{path}: cannot be read ({error.strerror})"
        return None

    for path in (folder / _METADATA, folder / _COMMIT):
        try:
            text = path.read_text()
            if path.name == _METADATA:
                json.loads(text)
        except OSError as error:
            return f"{path}: cannot be read ({error.strerror})"
        except ValueError:
            return f"{path}: damaged: not as it was written"
    with ThreadPoolExecutor() as pool:
        return next((message for message in pool.map(check, files) if message is not None), None)


def _digest(path: Path) -> tuple[int, str]:
    """Length and SHA-256 of a file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while part := file.read(_CHUNK):
            digest.update(part)
            size += len(part)
    return size, digest.hexdigest()


def _digest_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
