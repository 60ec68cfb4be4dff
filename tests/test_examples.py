"""The Boolean examples, with small settings: each ends with a line of JSON of its figures."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

import pjax_prim as pjp

FOLDER = Path(__file__).parent.parent / "examples" / "boolean"
FIGURES = {"success_rate", "iterations_per_solution", "solutions_per_second"}
RUNS = {
    "multiplier": "--bits 2 --starts 8 --steps 3000",
    "autocoder": "--size 8 --starts 2 --steps 20 --sigma 4 3 3 --adam",
    "circuits": "--inputs 6 --examples 30 --starts 2 --steps 50",
    "automaton": "--examples 20 --starts 2 --steps 400 --sweeps",
    "digits": "--hidden 8 --starts 2 --epochs 1 --learning-rates 0.1 --solver-starts 1 --solver-steps 2",
}
SLOW = ("autocoder", "circuits", "digits")


def run(name: str, arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    monkeypatch.setattr(sys, "argv", [name, *arguments.split(), "--json"])
    try:
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    finally:
        for module in ("common", "classification"):
            sys.modules.pop(module, None)


@pytest.mark.parametrize("name", [pytest.param(x, marks=pytest.mark.slow if x in SLOW else ()) for x in RUNS])
def test_figures(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run(name, RUNS[name], monkeypatch)
    figures: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(figures) > FIGURES
    if name == "multiplier":
        assert figures["success_rate"] > 0.5
    if name == "automaton":
        assert figures["success_rate"] == 1 and figures["test_bit_accuracy"] > 0.5
    if name == "autocoder":
        assert figures["adam"]["learning_rate"] > 0
    if name == "digits":
        assert set(figures["methods"]) == {"displacement", "straight_through", "solver"}
        assert all(0 <= x["test_accuracy"] <= 1 for x in figures["methods"].values())


@pytest.mark.parametrize("rows", [0, 1438])
def test_rows_that_are_not_there(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = f"solver-rows: expected at least 1 and at most the 1437 training examples, given {rows}"
    with pytest.raises(pjp.ArgumentError, match=expected):
        run("digits", f"--methods solver --solver-rows {rows}", monkeypatch)
