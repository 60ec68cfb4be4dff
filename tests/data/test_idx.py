import gzip
import re
from pathlib import Path

import numpy as np
import pytest

from pjax_prim.data import load, read_idx
from pjax_prim.errors import DataError

IMAGES = "train-images-idx3-ubyte"
LABELS = "train-labels-idx1-ubyte"


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def write_files(folder: Path, pack=lambda content: content, suffix: str = "") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 5), ("t10k", 3)):
        arrays[f"{part}-images-idx3-ubyte"] = rng.integers(0, 256, (count, 4, 3))
        arrays[f"{part}-labels-idx1-ubyte"] = rng.integers(0, 10, count)
    for name, array in arrays.items():
        (folder / (name + suffix)).write_bytes(pack(idx(array)))
    return arrays


@pytest.mark.parametrize(("pack", "suffix"), [(bytes, ""), (gzip.compress, ".gz")])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_reads_what_was_written(tmp_path, pack, suffix: str, name: str) -> None:
    arrays = write_files(tmp_path, pack, suffix)
    dataset = load(name, tmp_path)
    assert dataset.name == name and dataset.classes == 10 and dataset.features == 12
    assert dataset.train_x.dtype == dataset.test_x.dtype == np.float32
    assert dataset.train_y.dtype == dataset.test_y.dtype == np.int32
    np.testing.assert_allclose(dataset.train_x * 255, arrays[IMAGES].reshape(5, 12), rtol=1e-6)
    np.testing.assert_array_equal(dataset.train_y, arrays[LABELS])
    np.testing.assert_array_equal(dataset.test_y, arrays["t10k-labels-idx1-ubyte"])


IMAGE_BYTES = idx(np.zeros((5, 4, 3)))
LABEL_BYTES = idx(np.zeros(5))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IMAGES, None, f"no such file, nor {IMAGES}.gz"),
        (IMAGES, b"", "truncated: the header takes 16 bytes, found 0"),
        (IMAGES, IMAGE_BYTES[:2], "truncated: the header takes 16 bytes, found 2"),
        (IMAGES, IMAGE_BYTES[:10], "truncated: the header takes 16 bytes, found 10"),
        (IMAGES, IMAGE_BYTES[:-1], "truncated: shape (5, 4, 3) takes 60 bytes of data, found 59"),
        (IMAGES, IMAGE_BYTES + b"x", "too long: shape (5, 4, 3) takes 60 bytes of data, found 61"),
        (IMAGES, LABEL_BYTES, "expected it to begin with 00000803, found 00000801"),
        (IMAGES, b"\x89PNG" + bytes(40), "not an IDX file of unsigned bytes with 3 axes"),
        (IMAGES, idx(np.zeros((0, 4, 3))), "no images: shape (0, 4, 3)"),
        (LABELS, IMAGE_BYTES, "expected it to begin with 00000801, found 00000803"),
        (LABELS, idx(np.zeros(4)), f"4 labels for 5 images in {IMAGES}"),
        (LABELS, idx(np.array([0, 1, 2, 3, 10])), "labels from 0 to 9 expected, found 10"),
        (
            "t10k-images-idx3-ubyte",
            idx(np.zeros((3, 4, 4))),
            "images of (4, 4) pixels, the training images have (4, 3)",
        ),
        ("t10k-labels-idx1-ubyte", None, "no such file"),
    ],
)
def test_bad_file_is_named(tmp_path, name: str, content: bytes | None, message: str) -> None:
    write_files(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{re.escape(str(tmp_path / name))}: .*{re.escape(message)}"):
        load("mnist", tmp_path)


@pytest.mark.parametrize(
    "content",
    [gzip.compress(IMAGE_BYTES)[:-12], b"not gzip", gzip.compress(IMAGE_BYTES)[:12] + bytes(30)],
    ids=["truncated", "plain", "damaged"],
)
def test_bad_gzip_is_named(tmp_path, content: bytes) -> None:
    path = tmp_path / f"{IMAGES}.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{re.escape(str(path))}: truncated or damaged gzip file"):
        read_idx(path, 3)


def test_folder_in_place_of_a_file(tmp_path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path, 3)
