"""A text as windows of characters, each with the characters that come next."""

from pathlib import Path

import numpy as np

from ..errors import ArgumentError, DataError
from .dataset import Dataset

LENGTH = 64


def load_text(folder: Path, name: str = "text", *, length: int = LENGTH) -> Dataset:
    """The one `.txt` file (UTF-8) in `folder`, character by character.

    The first 80% of its characters are for training, the others for testing. Either part is cut
    into windows of `length` characters, one after the other, whose targets are the characters that
    follow each of them; what is left at its end is not used.

    **Returns:** characters and targets as integers: each character's place among the sorted
    characters of the file. `classes` counts those.

    **Errors:** `ArgumentError` for a length below 1; `DataError` for no such file, several, one that
    is not UTF-8, or one too short for a window of each part.
    """
    if length < 1:
        raise ArgumentError(f"length: expected at least 1, given {length}")
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
    split = len(tokens) * 4 // 5
    parts = tokens[:split], tokens[split:]
    if len(parts[1]) <= length:
        raise DataError(
            f"{path}: windows of {length} characters need more than {5 * length}, found {len(tokens)}"
        )
    windows = [_windows(part.astype(np.int32), length) for part in parts]
    return Dataset(name, *windows[0], *windows[1], len(characters))


def _windows(tokens: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    used = (len(tokens) - 1) // length * length
    return tokens[:used].reshape(-1, length), tokens[1 : used + 1].reshape(-1, length)
