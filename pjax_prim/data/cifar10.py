"""CIFAR-10, in its binary or its Python format."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .dataset import Dataset

_CLASSES = 10
_SHAPE = (32, 32, 3)
_PIXELS = 32 * 32 * 3
_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))


def load_cifar10(folder: Path, name: str = "cifar10") -> Dataset:
    """CIFAR-10 from `cifar-10-batches-bin/*.bin` or `cifar-10-batches-py/*`, each in `folder` or
    `folder` itself: `data_batch_1` to `data_batch_5` and `test_batch`. The binary format is taken
    where both exist.

    **Returns:** images as rows of height x width x channels numbers over 255, in the order of the
    files.

    **Errors:** `DataError` naming the file: missing, cut off, of another format, a label of 10 or more.

    **Cost:** 4 bytes a number: 740 MB.
    """
    for subfolder, suffix, read in (
        ("cifar-10-batches-bin", ".bin", _read_binary),
        ("cifar-10-batches-py", "", _read_python),
    ):
        for place in (folder / subfolder, folder):
            if (place / f"test_batch{suffix}").exists():
                parts = [read(place / (stem + suffix)) for stem in _TRAIN]
                test_x, test_y = read(place / f"test_batch{suffix}")
                train_x, train_y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
                return Dataset(name, train_x, train_y, test_x, test_y, _CLASSES, _SHAPE)
    raise DataError(
        f"{folder}: expected cifar-10-batches-bin/test_batch.bin or cifar-10-batches-py/test_batch, "
        "found neither"
    )


def _read_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Records of one label and 1024 red, 1024 green and 1024 blue bytes."""
    content = np.frombuffer(_read_bytes(path), np.uint8)
    size = 1 + _PIXELS
    if not content.size or content.size % size:
        raise DataError(f"{path}: expected records of {size} bytes, found {content.size} bytes")
    records = content.reshape(-1, size)
    return _convert(path, records[:, 1:], records[:, 0])


def _read_python(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A pickled dictionary with the rows of the binary format under `data`, and `labels`."""
    try:
        content = _Unpickler.of(_read_bytes(path))
        return _convert(path, np.asarray(content[b"data"]), np.asarray(content[b"labels"]))
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, IndexError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not a batch of the Python format ({error!r})") from None


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _convert(path: Path, pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if pixels.ndim != 2 or pixels.shape[1] != _PIXELS or pixels.dtype != np.uint8:
        raise DataError(
            f"{path}: expected rows of {_PIXELS} bytes, found shape {pixels.shape} of {pixels.dtype}"
        )
    if labels.shape != (len(pixels),):
        raise DataError(f"{path}: {labels.size} labels for {len(pixels)} images")
    if labels.size and not 0 <= labels.min() <= labels.max() < _CLASSES:
        raise DataError(
            f"{path}: labels from 0 to {_CLASSES - 1} expected, found {labels.min()} to {labels.max()}"
        )
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).reshape(len(pixels), -1)
    return images / np.float32(255), labels.astype(np.int32)


class _Unpickler(pickle.Unpickler):
    """Makes arrays and nothing else: a pickle may otherwise run any code."""

    _ALLOWED = {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    }

    @classmethod
    def of(cls, content: bytes) -> Any:
        """The object in a pickle, with the strings of Python 2 as bytes."""
        return cls(io.BytesIO(content), encoding="bytes").load()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} in it")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)
