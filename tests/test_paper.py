"""The benchmark report, with one cell that is trained and one that does not fit."""

import csv
import json
from pathlib import Path

import pytest

from benchmarks.paper.__main__ import main
from benchmarks.paper.cells import METHODS, QUICK, TASKS, Cell
from benchmarks.paper.report import COLUMNS, rows

TINY = "--tasks digits-mlp --methods adam dr --seeds 1 --quick --batches 2 --memory 0.001".split()


def test_a_report_is_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*TINY, "--out", str(tmp_path)]
    main(arguments)
    table = (tmp_path / "table.md").read_text()
    assert f"`python -m benchmarks.paper {' '.join(TINY)} --out DIR`" in table
    assert "| digits, MLP | Adam | 1 |" in table and "| digits, MLP | dr |  | needs about " in table
    assert "| digits, MLP | majority class |" in table
    with (tmp_path / "table.csv").open() as file:
        adam, dr, trivial = csv.DictReader(file)
    assert tuple(adam) == COLUMNS and float(adam["peak MB"]) > 50 and dr["best"] == ""
    assert 0 < float(trivial["test accuracy"]) < float(adam["best"]) + 0.2
    assert {path.suffix for path in tmp_path.glob("digits-mlp.*")} == {".png", ".svg"}

    cell = tmp_path / "cells" / "digits-mlp-adam-0.json"
    found = json.loads(cell.read_text())
    cell.write_text(json.dumps(found | {"test_accuracy": [0.5, 0.75]}))
    main(arguments)  # does not train what is there
    assert "75.00%" in (tmp_path / "table.md").read_text()
    capsys.readouterr()
    with pytest.raises(SystemExit, match="digits-mlp-adam-0.json: of other settings"):
        main([*arguments, "--batches", "3"])
    with pytest.raises(SystemExit, match="digits-mlp-adam-0.json: of other settings"):
        main([*arguments, "--batch-size", "7"])


def test_methods_of_a_task_see_the_same_samples() -> None:
    for task in TASKS:
        cells = [Cell(task, method, 0) for method in METHODS]
        seen = {(cell.network(QUICK), cell.config(QUICK).batches, cell.config(QUICK).seed) for cell in cells}
        assert len(seen) == 1


def test_rows() -> None:
    result = {
        "test_loss": [1.0, 0.5, 0.25],
        "samples": [10, 20, 30],
        "seconds": [1.0, 2.0, 3.0],
        "step_ms": 5.0,
        "peak_bytes": 2e6,
    }
    accuracies = {0: [0.5, 0.9, 0.899], 1: [0.5, 0.6, 0.7]}
    results = {Cell("mnist-mlp", "ap", seed): result | {"test_accuracy": x} for seed, x in accuracies.items()}
    (row,) = rows(results)
    assert row["test accuracy"] == pytest.approx((0.899 + 0.7) / 2) and row["best"] == 0.9
    assert (row["samples to 99%"], row["seconds to 99%"], row["seeds"]) == (25, 2.5, 2)
    assert row["test loss, nats"] == 0.25 and row["bits"] is None


def test_without_data(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--tasks", "mnist-mlp"])
    assert "no task has its data" in capsys.readouterr().err
