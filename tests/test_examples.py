"""The Boolean examples, with small settings: each ends with a line of JSON of its figures."""

import importlib
import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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


@pytest.mark.parametrize("method", ["displacement", "straight_through", "sweeps"])
def test_averages(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After two steps a mean with decay 1/2 has weights 1/3 and 2/3, and nothing of the first network."""
    monkeypatch.syspath_prepend(FOLDER)
    module = importlib.import_module("classification")
    try:
        x, y = jax.random.normal(jax.random.key(0), (20, 6)), jnp.arange(20) % 3

        def train(epochs: int, average: float) -> Any:
            options = SimpleNamespace(
                epochs=epochs, average=average, batch_size=20, binary=False, fixed_norm=False
            )
            direction = module.DIRECTIONS[method]
            return module.train(direction, (6, 8, 3), options, 0.1, x, y, jax.random.key(1)).weights

        # As good as no mean, but with the rate of one.
        first, second, mean = jax.jit(lambda: (train(1, 1e-12), train(2, 1e-12), train(2, 0.5)))()
        assert max(float(jnp.abs(a - b).max()) for a, b in zip(first, second, strict=True)) > 1e-3
        expected = [(a + 2 * b) / 3 for a, b in zip(first, second, strict=True)]
        for a, b in zip(mean, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    finally:
        for name in ("common", "classification"):
            sys.modules.pop(name, None)


def test_a_decay_that_is_none(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["digits.py", "--average", "1"])
    monkeypatch.syspath_prepend(FOLDER)
    with pytest.raises(SystemExit):
        runpy.run_path(str(FOLDER / "digits.py"), run_name="__main__")
    expected = "--average: expected a number of at least 0 and below 1, given 1.0"
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("rows", [0, 1438])
def test_rows_that_are_not_there(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = f"solver-rows: expected at least 1 and at most the 1437 training examples, given {rows}"
    with pytest.raises(pjp.ArgumentError, match=expected):
        run("digits", f"--methods solver --solver-rows {rows}", monkeypatch)
