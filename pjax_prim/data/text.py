"""A text as windows of characters, each with the characters that come next."""

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ArgumentError, DataError
from .dataset import Dataset
from .streams import checksum

LENGTH = 64
HELD_OUT = 0.2


class Windows:
    """The windows of a text that begin at every place of it, as pairs of tokens and the tokens that follow.

    **Arguments:** `tokens`, integers in one row; `length`, of a window.

    **Errors:** `DataError` for a text too short for a window.
    """

    def __init__(self, tokens: np.ndarray, length: int):
        if len(tokens) <= length:
            raise DataError(f"text: a window of {length} tokens needs more than as many, found {len(tokens)}")
        self._tokens, self._length = np.asarray(tokens, np.int32), length

    def __len__(self) -> int:
        return len(self._tokens) - self._length

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        window = self._tokens[index : index + self._length + 1]
        return window[:-1], window[1:]

    def describe(self) -> dict[str, Any]:
        """What tells these windows from others, ready for JSON."""
        return {"length": self._length, **checksum(self._tokens)}


def load_text(
    folder: Path, name: str = "text", *, length: int = LENGTH, held_out: float = HELD_OUT
) -> Dataset:
    """The one `.txt` file (UTF-8) in `folder`, character by character.

    The last `held_out` of its characters (a share) are for testing, the others for training. Either part is
    cut into windows of `length` characters, one after the other, whose targets are the characters that follow
    each of them; what is left at its end is not used.

    **Returns:** characters and targets as integers: each character's place among the sorted
    characters of the file. `classes` counts those.

    **Errors:** `ArgumentError` for a length below 1 and a share that is none; `DataError` for no such file,
    several, one that is not UTF-8, or one too short for a window of each part.
    """
    if length < 1:
        raise ArgumentError(f"length: expected at least 1, given {length}")
    if not 0 < held_out < 1:
        raise ArgumentError(f"held_out: expected a share above 0 and below 1, given {held_out}")
    files = sorted(folder.glob("*.txt"))
    if len(files) != 1:
        found = ", ".join(path.name for path in files) or "none"
        raise DataError(f"{folder}: expected one .txt file, found {found}")
    (path,) = files
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    characters, tokens = np.unique(codes, return_inverse=True)
    split = int(len(tokens) * (1 - held_out))
    parts = tokens[:split], tokens[split:]
    if min(map(len, parts)) <= length:
        least = round(length / min(held_out, 1 - held_out))
        raise DataError(f"{path}: windows of {length} characters need more than {least}, found {len(tokens)}")
    windows = [_windows(part.astype(np.int32), length) for part in parts]
    return Dataset(name, *windows[0], *windows[1], len(characters))


def _windows(tokens: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    used = (len(tokens) - 1) // length * length
    return tokens[:used].reshape(-1, length), tokens[1 : used + 1].reshape(-1, length)
