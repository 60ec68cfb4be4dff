import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from pjax_prim.data import load
from pjax_prim.errors import DataError

STEMS = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
FORMATS = {"cifar-10-batches-bin": ".bin", "cifar-10-batches-py": ""}


def encode(pixels: np.ndarray, labels: np.ndarray, suffix: str) -> bytes:
    if suffix:
        return np.concatenate([labels[:, None], pixels], 1).astype(np.uint8).tobytes()
    return pickle.dumps({b"data": pixels, b"labels": labels.tolist()}, protocol=2)


def write(folder: Path, suffix: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    written = {}
    for stem in STEMS:
        pixels = rng.integers(0, 256, (2, 3072), dtype=np.uint8)
        labels = rng.integers(0, 10, 2)
        (folder / f"{stem}{suffix}").write_bytes(encode(pixels, labels, suffix))
        written[stem] = pixels, labels
    return written


@pytest.mark.parametrize("subfolder", FORMATS)
@pytest.mark.parametrize("inside", [False, True])
def test_reads_what_was_written(tmp_path, subfolder: str, inside: bool) -> None:
    folder = tmp_path / subfolder
    written = write(folder, FORMATS[subfolder])
    data = load("cifar10", folder if inside else tmp_path)
    assert data.image_shape == (32, 32, 3) and data.classes == 10 and len(data.train_x) == 10
    assert data.train_x.dtype == np.float32 and data.train_y.dtype == np.int32
    for part, images, labels in (
        ("data_batch_2", data.train_x[2:4], data.train_y[2:4]),
        ("test_batch", data.test_x, data.test_y),
    ):
        planes = written[part][0].reshape(2, 3, 32, 32)
        np.testing.assert_allclose(images.reshape(2, 32, 32, 3) * 255, np.moveaxis(planes, 1, -1), rtol=1e-6)
        np.testing.assert_array_equal(labels, written[part][1])


class Evil:
    def __reduce__(self):
        return print, ("code was run",)


@pytest.mark.parametrize(
    ("subfolder", "content", "message"),
    [
        ("cifar-10-batches-bin", None, "no such file"),
        ("cifar-10-batches-bin", b"\0" * 3074, "expected records of 3073 bytes, found 3074 bytes"),
        ("cifar-10-batches-bin", b"", "expected records of 3073 bytes, found 0 bytes"),
        ("cifar-10-batches-bin", b"\x0a" * 3073, "labels from 0 to 9 expected, found 10 to 10"),
        ("cifar-10-batches-py", b"abc", "not a batch of the Python format"),
        ("cifar-10-batches-py", pickle.dumps({b"labels": [1]}), "not a batch of the Python format"),
        ("cifar-10-batches-py", pickle.dumps(Evil()), "builtins.print in it"),
        (
            "cifar-10-batches-py",
            encode(np.zeros((2, 7), np.uint8), np.zeros(2, int), ""),
            r"expected rows of 3072 bytes, found shape (2, 7) of uint8",
        ),
        (
            "cifar-10-batches-py",
            encode(np.zeros((2, 3072), np.uint8), np.zeros(3, int), ""),
            "3 labels for 2 images",
        ),
    ],
)
def test_bad_file_is_named(tmp_path, capsys, subfolder: str, content: bytes | None, message: str) -> None:
    write(tmp_path / subfolder, FORMATS[subfolder])
    path = tmp_path / subfolder / f"data_batch_3{FORMATS[subfolder]}"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DataError, match=f"{re.escape(str(path))}: .*{re.escape(message)}"):
        load("cifar10", tmp_path)
    assert not capsys.readouterr().out


def test_no_files(tmp_path) -> None:
    with pytest.raises(DataError, match="expected cifar-10-batches-bin/test_batch.bin or .* found neither"):
        load("cifar10", tmp_path)
