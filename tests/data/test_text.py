import re
from pathlib import Path

import numpy as np
import pytest

from pjax_prim.data import baseline, batch, load
from pjax_prim.errors import ArgumentError, DataError


def write(folder: Path, text: str) -> str:
    (folder / "some.txt").write_text(text, encoding="utf-8")
    return text


@pytest.mark.parametrize("length", [1, 4, 7])
def test_windows_give_the_text_back(tmp_path, length: int) -> None:
    text = write(tmp_path, "ein Satz mit ä, ß und 𝄞.\n" * 9)
    data = load("text", tmp_path, length=length)
    characters = np.array(sorted(set(text)))
    assert data.classes == len(characters) and data.is_sequence and data.features == length
    split = len(text) * 4 // 5
    for x, y, part in (
        (data.train_x, data.train_y, text[:split]),
        (data.test_x, data.test_y, text[split:]),
    ):
        assert x.shape == y.shape and x.dtype == y.dtype == np.int32
        used = "".join(characters[x.ravel()])
        assert part.startswith(used) and len(part) - len(used) <= length
        assert "".join(characters[y.ravel()]) == part[1 : len(used) + 1]
    x, y = batch(data, 3, seed=0, step=0)
    assert x.shape == y.shape == (3, length)


def test_default_length(tmp_path) -> None:
    write(tmp_path, "abc" * 200)
    assert load("text", tmp_path).features == 64


def test_baseline_is_the_bigram_table(tmp_path) -> None:
    write(tmp_path, "abac" * 100)  # b and c are followed by a; a by either
    name, share = baseline(load("text", tmp_path, length=1))
    assert name == "bigram table" and share == pytest.approx(0.75, abs=0.02)


def test_baseline_of_classes() -> None:
    digits = load("digits")
    name, share = baseline(digits)
    most = np.bincount(digits.train_y).argmax()
    assert name == "majority class" and share == (digits.test_y == most).mean()


def test_errors(tmp_path) -> None:
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}: expected one .txt file, found none")):
        load("text", tmp_path)
    write(tmp_path, "x" * 20)
    with pytest.raises(DataError, match="windows of 4 characters need more than 20, found 20"):
        load("text", tmp_path, length=4)
    with pytest.raises(ArgumentError, match="length: expected at least 1, given 0"):
        load("text", tmp_path, length=0)
    with pytest.raises(ArgumentError, match="length: only for text, given with digits"):
        load("digits", length=4)
    (tmp_path / "some.txt").write_bytes(b"abc\xff")
    with pytest.raises(DataError, match=r"some.txt: not UTF-8 \(invalid start byte at byte 3\)"):
        load("text", tmp_path)
    (tmp_path / "other.txt").touch()
    with pytest.raises(DataError, match="expected one .txt file, found other.txt, some.txt"):
        load("text", tmp_path)
