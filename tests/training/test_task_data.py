"""The data of a task: pipelines that go on where they were, and what is no data."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import grain
import numpy as np
import pytest

from pjax_prim.errors import ArgumentError, DataError, PreemptedError
from pjax_prim.training import RunFolder, train

from .runs import EVERY, outcome, stop_after
from .small import BATCHES, TASK, X, Y, config


class Rows:
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return X[index], Y[index]


def array_records(folder: Path) -> Any:
    """The rows in two files of records."""
    from array_record.python.array_record_module import ArrayRecordWriter

    paths = [str(folder / f"{n}.array_record") for n in range(2)]
    for part, path in enumerate(paths):
        if not Path(path).exists():
            writer = ArrayRecordWriter(path, "group_size:1")
            for x, y in list(zip(X, Y, strict=True))[20 * part : 20 * (part + 1)]:
                writer.write(x.tobytes() + y.tobytes())
            writer.close()
    return grain.sources.ArrayRecordDataSource(paths)


def decode(record: bytes) -> tuple[np.ndarray, np.ndarray]:
    size = X[0].nbytes
    return tuple(
        np.frombuffer(part, like.dtype).reshape(like.shape)
        for part, like in ((record[:size], X[0]), (record[size:], Y[0]))
    )


def pipeline(kind: str, folder: Path) -> Any:
    if kind.startswith("records"):
        rows = grain.MapDataset.source(array_records(folder)).seed(3).shuffle().map(decode)
    else:
        rows = grain.MapDataset.source(Rows()).seed(3).shuffle()
    return rows.repeat().to_iter_dataset().batch(8) if kind.endswith("states") else rows.batch(8)


@pytest.mark.usefixtures("shared_compilation")
@pytest.mark.parametrize(
    "kind",
    [
        "numbers",
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("states", "records, numbers")),
        "records, states",
    ],
)
def test_a_pipeline_goes_on_where_it_was(kind: str, tmp_path: Path) -> None:
    whole, folder = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "stopped")
    given = config(12, solver="adam")
    expected = train(replace(TASK, train=pipeline(kind, tmp_path)), given, whole, saving=EVERY)
    assert len({row["loss"] for row in expected.rows}) == 12
    if kind.startswith("records"):  # the same rows in the same order as from memory
        other = train(replace(TASK, train=pipeline(kind.removeprefix("records, "), tmp_path)), given)
        assert other.rows == expected.rows
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 7)
        with pytest.raises(PreemptedError):
            train(replace(TASK, train=pipeline(kind, tmp_path)), given, folder, saving=EVERY)
    resumed = train(replace(TASK, train=pipeline(kind, tmp_path)), given, folder, resume=True, saving=EVERY)
    assert outcome(resumed, folder) == outcome(expected, whole)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([], ArgumentError, "train: expected at least one batch, given none"),
        (
            (x for x in BATCHES),
            ArgumentError,
            "found again after a stop, given generator, whose iterator has",
        ),
        (3, ArgumentError, "train: expected batches, such as a grain pipeline or Shuffled, given 3"),
        (
            grain.MapDataset.source(Rows()).to_iter_dataset().batch(8),
            DataError,
            "train: the data ended after 5 of 6 batches; repeat them",
        ),
    ],
)
def test_data_that_do_not_do(data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        train(replace(TASK, train=data), config(6))
