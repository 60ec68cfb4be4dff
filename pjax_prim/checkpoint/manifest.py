"""`checkpoint.json`: what a checkpoint is, and the checksum of each of its files.

It is written into the folder of a checkpoint before that one is complete (`Storage.steps`), so that a
checkpoint has either all of its files and this one, or does not count.
"""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .storage import COMMIT, Storage, storage_of

NAME = "checkpoint.json"
_FORMAT = 1
_BLOCK = 1 << 23
# Orbax finishes these after the checksums are taken; no array is in them.
_METADATA = "_CHECKPOINT_METADATA"


def write_manifest(folder: Path, info: dict[str, Any]) -> None:
    """Records `info` and the size and checksum of every file in `folder`.

    The checksum is the SHA-256 of the SHA-256s of its blocks of 8 MiB, one after the other.

    **Cost:** reads the files once, on several threads.
    """
    storage = storage_of(folder)
    files = [name for name in storage.files(folder) if name not in (_METADATA, COMMIT)]
    with ThreadPoolExecutor() as pool:
        digests = [_digest(storage, folder / name, pool) for name in files]
    described = {
        "info": info,
        "files": {
            name: {"bytes": size, "sha256": digest}
            for name, (size, digest) in zip(files, digests, strict=True)
        },
    }
    content = {"format": _FORMAT, **described, "sha256": _digest_json(described)}
    storage.write(folder / NAME, json.dumps(content, indent=1) + "\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of `checkpoint.json`.

    **Errors:** `CheckpointError` where it is absent, damaged or of a later format.
    """
    path = folder / NAME
    try:
        content = json.loads(storage_of(path).read(path))
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

    storage = storage_of(folder)
    for path in (folder / _METADATA, folder / COMMIT):
        try:
            text = storage.read(path)
            if path.name == _METADATA:
                json.loads(text)
        except OSError as error:
            return f"{path}: cannot be read ({error.strerror})"
        except ValueError:
            return f"{path}: damaged: not as it was written"
    with ThreadPoolExecutor() as pool:
        for name, expected in files:
            path = folder / name
            try:
                size = storage.size(path)
                if size != expected["bytes"]:
                    return f"{path}: damaged: expected {expected['bytes']} bytes, found {size}"
                if _digest(storage, path, pool)[1] != expected["sha256"]:
                    return f"{path}: damaged: its content does not match its checksum"
            except OSError as error:
                return f"{path}: cannot be read ({error.strerror})"
    return None


def _digest(storage: Storage, path: Path, pool: ThreadPoolExecutor) -> tuple[int, str]:
    """Length and checksum of a file; its blocks are read on the threads of `pool`."""

    def block(start: int) -> bytes:
        return hashlib.sha256(storage.read(path, start, _BLOCK)).digest()

    size = storage.size(path)
    starts = range(0, max(size, 1), _BLOCK)
    digests = pool.map(block, starts) if len(starts) > 1 else map(block, starts)
    return size, hashlib.sha256(b"".join(digests)).hexdigest()


def _digest_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
