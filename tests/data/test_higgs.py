import gzip
import re
from pathlib import Path

import numpy as np
import pytest

from pjax_prim.data import load
from pjax_prim.errors import DataError


def rows(count: int = 20) -> np.ndarray:
    rng = np.random.default_rng(0)
    table = rng.normal(3, 2, (count, 29))
    table[:, 0] = rng.integers(0, 2, count)
    table[:, 5] = 1.5  # constant
    return table


def text(table: np.ndarray) -> bytes:
    return "".join(",".join(f"{x:.9e}" for x in row) + "\n" for row in table).encode()


@pytest.mark.parametrize(("name", "pack"), [("HIGGS.csv", bytes), ("HIGGS.csv.gz", gzip.compress)])
def test_reads_what_was_written(tmp_path: Path, name: str, pack) -> None:
    table = rows()
    (tmp_path / name).write_bytes(pack(text(table)))
    data = load("higgs", tmp_path)
    assert len(data.train_x) == 16 and len(data.test_x) == 4 and data.classes == 2
    assert data.train_x.dtype == np.float32 and data.train_y.dtype == np.int32
    np.testing.assert_array_equal(np.concatenate([data.train_y, data.test_y]), table[:, 0])
    scale = table[:16, 1:].std(0)
    scaled = (table[:, 1:] - table[:16, 1:].mean(0)) / np.where(scale > 1e-9, scale, 1)
    np.testing.assert_allclose(np.concatenate([data.train_x, data.test_x]), scaled, atol=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file, nor HIGGS.csv.gz"),
        (b"", "expected 29 columns, found"),
        (text(rows()[:, :7]), "expected 29 columns, found 7"),
        (text(rows(4)), "expected at least 5 rows, found 4"),
        (text(rows()) + b"1,2\n", "not rows of numbers"),
        (text(rows()).replace(b"e+00", b"x", 1), "not rows of numbers"),
        (text(np.where(np.arange(20)[:, None] == 3, np.nan, rows())), "row 3 is not finite"),
        (text(rows() + 1), "labels 0 and 1 expected, found 2"),
    ],
)
def test_bad_file_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "HIGGS.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"{re.escape(str(path))}: .*{re.escape(message)}"):
        load("higgs", tmp_path)


@pytest.mark.parametrize("content", [gzip.compress(text(rows()))[:-20], b"not gzip"])
def test_bad_gzip(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "HIGGS.csv.gz").write_bytes(content)
    with pytest.raises(DataError, match="HIGGS.csv.gz: truncated or damaged gzip file"):
        load("higgs", tmp_path)
