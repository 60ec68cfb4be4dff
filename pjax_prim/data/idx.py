"""The IDX format of MNIST and Fashion-MNIST, raw or compressed with gzip."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from ..errors import DataError
from .dataset import Dataset

_UNSIGNED_BYTE = 0x08
_CLASSES = 10


def read_idx(path: Path, axes: int) -> np.ndarray:
    """The array of unsigned bytes in an IDX file with `axes` axes.

    The header is two zero bytes, the type, the number of axes, and one big-endian 32-bit size
    per axis; the data follow in row-major order.

    **Errors:** `DataError` naming the file, unless header and length are exactly right.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: truncated or damaged gzip file ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None

    start = 4 + 4 * axes
    magic = bytes([0, 0, _UNSIGNED_BYTE, axes])
    if content[:4] != magic[: len(content)]:
        raise DataError(
            f"{path}: not an IDX file of unsigned bytes with {axes} axes: "
            f"expected it to begin with {magic.hex()}, found {content[:4].hex()}"
        )
    if len(content) < start:
        raise DataError(f"{path}: truncated: the header takes {start} bytes, found {len(content)}")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", axes, offset=4))
    expected, found = math.prod(shape), len(content) - start
    if found != expected:
        what = "truncated" if found < expected else "too long"
        raise DataError(f"{path}: {what}: shape {shape} takes {expected} bytes of data, found {found}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def load_mnist(folder: Path, name: str = "mnist") -> Dataset:
    """MNIST, or a data set in its files: `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`,
    `t10k-images-idx3-ubyte` and `t10k-labels-idx1-ubyte`, each raw or with `.gz` (raw is taken
    where both exist).

    **Returns:** images as rows of height x width pixels over 255, in the order of the files.

    **Errors:** `DataError` naming the file: missing, truncated, not IDX, empty, counts or sizes
    that do not match, a label of 10 or more.

    **Cost:** 4 bytes a pixel: 220 MB for MNIST.
    """
    train_x, train_y = _read_part(folder, "train")
    test_x, test_y = _read_part(folder, "t10k")
    if train_x.shape[1:] != test_x.shape[1:]:
        path = _find(folder, "t10k-images-idx3-ubyte")
        raise DataError(
            f"{path}: images of {test_x.shape[1:]} pixels, the training images have {train_x.shape[1:]}"
        )
    shape = (*train_x.shape[1:], 1)
    return Dataset(name, _rows(train_x), train_y, _rows(test_x), test_y, _CLASSES, shape)


def _find(folder: Path, stem: str) -> Path:
    raw, compressed = folder / stem, folder / f"{stem}.gz"
    if raw.exists():
        return raw
    if compressed.exists():
        return compressed
    raise DataError(f"{raw}: no such file, nor {compressed.name}")


def _read_part(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    image_path = _find(folder, f"{part}-images-idx3-ubyte")
    label_path = _find(folder, f"{part}-labels-idx1-ubyte")
    images, labels = read_idx(image_path, 3), read_idx(label_path, 1)
    if not images.size:
        raise DataError(f"{image_path}: no images: shape {images.shape}")
    if len(images) != len(labels):
        raise DataError(f"{label_path}: {len(labels)} labels for {len(images)} images in {image_path.name}")
    if labels.max() >= _CLASSES:
        raise DataError(f"{label_path}: labels from 0 to {_CLASSES - 1} expected, found {labels.max()}")
    return images, labels.astype(np.int32)


def _rows(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / np.float32(255)
