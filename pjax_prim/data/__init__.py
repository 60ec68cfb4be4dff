"""Data sets, read from their standard files, and deterministic batches of them.

One file per format: `digits.py` (scikit-learn), `idx.py` (MNIST, Fashion-MNIST).
"""

from collections.abc import Callable
from pathlib import Path

from ..errors import ArgumentError, DataError
from .batches import batch as batch
from .batches import batch_indices as batch_indices
from .dataset import Dataset as Dataset
from .digits import load_digits as load_digits
from .idx import load_mnist as load_mnist
from .idx import read_idx as read_idx

FOLDERS: dict[str, Callable[[Path, str], Dataset]] = {"mnist": load_mnist, "fashion-mnist": load_mnist}
"""Data sets read from a folder: name -> `load(folder, name)`."""

DATASETS = ("digits", *FOLDERS)


def load(name: str, folder: str | Path | None = None) -> Dataset:
    """The data set `name`, one of `DATASETS`.

    **Arguments:** `folder`: where its files lie; `digits` needs none and takes none.

    **Errors:** `ArgumentError` for another name, or a folder missing or not wanted; `DataError`
    for a file that is missing, truncated or of another format.
    """
    if name not in DATASETS:
        raise ArgumentError(f"data: expected one of {', '.join(DATASETS)}, given {name!r}")
    if name == "digits":
        if folder is not None:
            raise ArgumentError(f"data_dir: digits comes with scikit-learn, given {str(folder)!r}")
        return load_digits()
    if folder is None:
        raise ArgumentError(f"data_dir: {name} needs the folder of its files")
    if not Path(folder).is_dir():
        raise DataError(f"{folder}: no such folder")
    return FOLDERS[name](Path(folder), name)
