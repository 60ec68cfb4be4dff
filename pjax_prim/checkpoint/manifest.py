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
_BLOCK = 1 << 23
# Orbax finishes these after the checksums are taken; no array is in them.
_METADATA, _COMMIT = "_CHECKPOINT_METADATA", "commit_success.txt"


def write_manifest(folder: Path, info: dict[str, Any]) -> None:
    """Records `info` and the size and checksum of every file in `folder`.

    The checksum is the SHA-256 of the SHA-256s of its blocks of 8 MiB, one after the other.

    **Cost:** reads the files once, on several threads.
    """
    late = (folder / _METADATA, folder / _COMMIT)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path not in late)
    with ThreadPoolExecutor() as pool:
        digests = [_digest(path, pool) for path in files]
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
        for name, expected in files:
            path = folder / name
            try:
                size = path.stat().st_size
                if size != expected["bytes"]:
                    return f"{path}: damaged: expected {expected['bytes']} bytes, found {size}"
                if _digest(path, pool)[1] != expected["sha256"]:
                    return f"{path}: damaged: its content does not match its checksum"
            except OSError as error:
                return f"{path}: cannot be read ({error.strerror})"
    return None


def _digest(path: Path, pool: ThreadPoolExecutor) -> tuple[int, str]:
    """Length and checksum of a file; its blocks are read on the threads of `pool`."""

    def block(start: int) -> bytes:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            digest, left = hashlib.sha256(), _BLOCK
            while left and (part := file.read(min(left, 1 << 20))):
                digest.update(part)
                left -= len(part)
        return digest.digest()

    size = path.stat().st_size
    starts = range(0, max(size, 1), _BLOCK)
    digests = pool.map(block, starts) if len(starts) > 1 else map(block, starts)
    return size, hashlib.sha256(b"".join(digests)).hexdigest()


def _digest_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
