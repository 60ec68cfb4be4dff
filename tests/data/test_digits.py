import hashlib

import numpy as np
import pytest

from pjax_prim.data import DATASETS, digits, load
from pjax_prim.errors import ArgumentError, DataError


def test_digits() -> None:
    data = load("digits")
    assert data.train_x.shape == (1437, 64) and data.test_x.shape == (360, 64)
    assert data.train_x.dtype == np.float32 and data.train_y.dtype == np.int32
    assert data.train_x.min() == 0 and data.train_x.max() == 1
    assert set(data.train_y) == set(data.test_y) == set(range(data.classes))
    assert data.features == 64


def test_the_split_is_fixed() -> None:
    labels = load("digits").test_y
    assert labels[:12].tolist() == [0, 8, 8, 9, 8, 3, 7, 5, 0, 6, 6, 3]
    assert hashlib.sha256(labels.tobytes()).hexdigest().startswith("cae89a830a523025")


def test_they_are_those_of_scikit_learn() -> None:
    from sklearn import datasets  # which takes seconds

    images, labels = datasets.load_digits(return_X_y=True)
    read_images, read_labels = digits._read()
    np.testing.assert_array_equal(read_images, images)
    np.testing.assert_array_equal(read_labels, labels)


def test_bad_names_and_folders(tmp_path) -> None:
    with pytest.raises(ArgumentError, match=r"data: expected one of digits, mnist, .*, given 'imagenet'"):
        load("imagenet")
    with pytest.raises(ArgumentError, match="data_dir: digits comes with scikit-learn"):
        load("digits", tmp_path)
    for name in DATASETS[1:]:
        with pytest.raises(ArgumentError, match=f"data_dir: {name} needs the folder of its files"):
            load(name)
        with pytest.raises(DataError, match=r"absent: no such folder"):
            load(name, tmp_path / "absent")
