"""Files of tokens: written once, read by memory mapping, a window at a time."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint.json_text import parse_json
from ..errors import ArgumentError, DataError

_MAGIC = b"pjax-prim tokens 1\n"
_BLOCK = 1 << 24


def write_tokens(texts: Sequence[Path], to: Path, tokenizer: Path | None = None) -> dict[str, Any]:
    """Writes the tokens of some texts, one after the other, to one file.

    The file is a line that names the format, a line of JSON (`tokens`, `classes`, `dtype`, `sha256` of the
    tokens), and the tokens, little-endian, as small as they may be. A file that is there is replaced at once.

    **Arguments:** `tokenizer`: a file of the package `tokenizers`; without it tokens are bytes.

    **Returns:** what the line of JSON says.

    **Errors:** `DataError` for a text that cannot be read or is empty, and a file that cannot be written;
    `ArgumentError` for no text.
    """
    if not texts:
        raise ArgumentError("texts: expected at least one file, given none")
    classes, encode = _encoder(tokenizer)
    dtype = np.dtype("u1" if classes <= 1 << 8 else "<u2" if classes <= 1 << 16 else "<u4")
    count, digest = 0, hashlib.sha256()
    partial = to.with_name(f"{to.name}.partial")
    body = to.with_name(f"{to.name}.body.partial")
    try:
        with body.open("wb") as file:
            for path in texts:
                for part in _parts(path):
                    content = np.asarray(encode(part), dtype).tobytes()
                    file.write(content)
                    digest.update(content)
                    count += len(content) // dtype.itemsize
        if not count:
            raise DataError(f"{texts[0]}: expected text, found none")
        header = {"tokens": count, "classes": classes, "dtype": dtype.str, "sha256": digest.hexdigest()}
        with partial.open("wb") as file, body.open("rb") as tokens:
            file.write(_MAGIC + json.dumps(header).encode() + b"\n")
            while block := tokens.read(_BLOCK):
                file.write(block)
        partial.replace(to)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(f"{to}: cannot be written ({error.strerror})") from None
    finally:
        body.unlink(missing_ok=True)
    return header


class TokenFile:
    """Windows of a file of tokens, each with the tokens that follow: `(tokens, targets)`, both int32 of
    `length`.

    The file is mapped, not read: a window takes its own bytes alone. The windows follow one another without
    overlap; what is left at the end is not used.

    **Arguments:** `path`: a file of `write_tokens`; `length`: that of a window; `first`, `last`: the part of
    the file that is used, as shares of its tokens.

    **Errors:** `DataError` for a file that is missing, of another format, or cut off, or too short for a
    window; `ArgumentError` for a length or shares out of range.
    """

    def __init__(self, path: str | Path, length: int, first: float = 0.0, last: float = 1.0):
        if length < 1:
            raise ArgumentError(f"length: expected at least 1, given {length}")
        if not 0 <= first < last <= 1:
            raise ArgumentError(
                f"first, last: expected shares in order within 0 and 1, given {first} and {last}"
            )
        self.path, self.length = Path(path), length
        self._header, offset = _read_header(self.path)
        tokens = self._header["tokens"]
        self._start, end = round(first * tokens), round(last * tokens)
        self._count = (end - self._start - 1) // length
        if self._count < 1:
            raise DataError(
                f"{self.path}: a window of {length} tokens needs more than as many, found {end - self._start}"
            )
        self._tokens = np.memmap(self.path, self._header["dtype"], "r", offset, (tokens,))

    @property
    def classes(self) -> int:
        """The number of different tokens."""
        return int(self._header["classes"])

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= index < self._count:
            raise IndexError(index)
        start = self._start + index * self.length
        window = self._tokens[start : start + self.length + 1].astype(np.int32)
        return window[:-1], window[1:]

    def describe(self) -> dict[str, Any]:
        """What tells one file, and one part of it, from another, ready for JSON."""
        return {"length": self.length, "start": self._start, "windows": self._count, **self._header}


def _encoder(tokenizer: Path | None) -> tuple[int, Any]:
    if tokenizer is None:
        return 256, lambda text: np.frombuffer(text.encode(), np.uint8)
    from tokenizers import Tokenizer

    try:
        found = Tokenizer.from_file(str(tokenizer))
    except Exception as error:  # the package raises nothing narrower
        raise DataError(f"{tokenizer}: not a file of the package tokenizers ({error})") from None
    return found.get_vocab_size(), lambda text: found.encode(text, add_special_tokens=False).ids


def _parts(path: Path) -> Iterator[str]:
    """A text by lines, some at a time."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            while lines := file.readlines(_BLOCK):
                yield "".join(lines)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    try:
        with path.open("rb") as file:
            if file.readline() != _MAGIC:
                raise DataError(f"{path}: not a file of tokens; pjax-prim prepare writes one")
            header = parse_json(file.readline())
            offset = file.tell()
        expected = header["tokens"] * np.dtype(header["dtype"]).itemsize
        found = path.stat().st_size - offset
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: damaged: its second line is not as it was written") from None
    if found != expected:
        raise DataError(f"{path}: expected {expected} bytes of tokens, found {found}")
    return header, offset
