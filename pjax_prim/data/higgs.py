"""HIGGS: signal or background of simulated collisions, from 28 numbers."""

import gzip
import warnings
import zlib
from pathlib import Path

import numpy as np

from ..errors import DataError
from .dataset import Dataset

_FEATURES = 28
_TEST = 500_000


def load_higgs(folder: Path, name: str = "higgs") -> Dataset:
    """HIGGS from `HIGGS.csv` or `HIGGS.csv.gz` (the first where both exist): in each row the
    label, 0 or 1, and 28 features.

    The last 500,000 rows are for testing, as is usual, or the last fifth if that is less. Each
    feature is shifted and scaled to mean 0 and standard deviation 1 on the training rows.

    **Errors:** `DataError` naming the file: missing, damaged, too short, another number of
    columns, what is no number or not finite, a label that is neither 0 nor 1.

    **Cost:** 4 bytes a number: 1.3 GB for the whole file, twice while it is read.
    """
    path = _find(folder)
    rows = _read(path)
    if rows.shape[1] != 1 + _FEATURES:
        raise DataError(f"{path}: expected {1 + _FEATURES} columns, found {rows.shape[1]}")
    if len(rows) < 5:
        raise DataError(f"{path}: expected at least 5 rows, found {len(rows)}")
    if not np.isfinite(rows).all():
        raise DataError(f"{path}: row {int(np.argmin(np.isfinite(rows).all(1)))} is not finite")
    labels, x = rows[:, 0], rows[:, 1:]
    wrong = ~np.isin(labels, (0, 1))
    if wrong.any():
        raise DataError(f"{path}: labels 0 and 1 expected, found {labels[wrong][0]:g}")
    split = len(rows) - min(_TEST, len(rows) // 5)
    mean, scale = x[:split].mean(0, dtype=np.float64), x[:split].std(0, dtype=np.float64)
    x = ((x - mean) / np.where(scale > 0, scale, 1)).astype(np.float32)
    y = labels.astype(np.int32)
    return Dataset(name, x[:split], y[:split], x[split:], y[split:], 2)


def _find(folder: Path) -> Path:
    for path in (folder / "HIGGS.csv", folder / "HIGGS.csv.gz"):
        if path.exists():
            return path
    raise DataError(f"{folder / 'HIGGS.csv'}: no such file, nor HIGGS.csv.gz")


def _read(path: Path) -> np.ndarray:
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # an empty file: an error below
                return np.loadtxt(file, np.float32, delimiter=",", comments=None, ndmin=2)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: truncated or damaged gzip file ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise DataError(f"{path}: not rows of numbers ({error})") from None
