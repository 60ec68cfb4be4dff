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
from .json_text import parse_json
from .storage import COMMIT, storage_of

NAME = "checkpoint.json"
_FORMAT = 1
_AT_ONCE = 4
"""So many files are read at the same time."""
# Orbax finishes these after the checksums are taken; no array is in them.
_METADATA = "_CHECKPOINT_METADATA"


def write_manifest(folder: Path, info: dict[str, Any]) -> None:
    """Records `info` and the size and checksum of every file in `folder`, of the kind that takes least there
    (`Storage.checksum_kind`).

    **Cost:** of the checksums, on several threads: those of a file system read the files once.
    """
    storage = storage_of(folder)
    files = [name for name in storage.files(folder) if name not in (_METADATA, COMMIT)]
    kind = storage.checksum_kind
    with ThreadPoolExecutor() as blocks, ThreadPoolExecutor(_AT_ONCE) as pool:
        found = [*pool.map(lambda name: storage.checksum(folder / name, kind, blocks), files)]
    described = {
        "info": info,
        "files": {
            name: {"bytes": size, kind: digest} for name, (size, digest) in zip(files, found, strict=True)
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
        content = parse_json(storage_of(path).read(path))
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

    **Cost:** of the checksums, on several threads.
    """
    storage = storage_of(folder)
    for path in (folder / _METADATA, folder / COMMIT):
        try:
            text = storage.read(path)
            if path.name == _METADATA:
                parse_json(text)
        except OSError as error:
            return f"{path}: cannot be read ({error.strerror})"
        except ValueError:
            return f"{path}: damaged: not as it was written"

    def problem(file: tuple[str, dict[str, Any]]) -> str | None:
        path, expected = folder / file[0], file[1]
        (kind,) = expected.keys() - {"bytes"}
        try:
            size, digest = storage.checksum(path, kind, blocks)
        except OSError as error:
            return f"{path}: cannot be read ({error.strerror})"
        if size != expected["bytes"]:
            return f"{path}: damaged: expected {expected['bytes']} bytes, found {size}"
        return (
            None if digest == expected[kind] else f"{path}: damaged: its content does not match its checksum"
        )

    with ThreadPoolExecutor() as blocks, ThreadPoolExecutor(_AT_ONCE) as pool:
        return next((found for found in pool.map(problem, files) if found is not None), None)


def _digest_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
