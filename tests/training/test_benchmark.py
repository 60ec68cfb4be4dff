import json

import pytest

from pjax_prim.cli import main
from pjax_prim.training.benchmark import CASES

FIGURES = {
    "step_ms", "adam_step_ms", "ratio_to_adam", "products_ms", "floor_ms", "ratio_to_floor", "peak_bytes",
}  # fmt: skip


@pytest.mark.parametrize(
    ("case", "model"),
    [("dr", "mlp"), *(pytest.param("ap", x, marks=pytest.mark.slow) for x in ("mlp", "cnn", "rnn"))],
)
def test_bench_reports_every_figure(case: str, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert case in CASES
    arguments = ["bench", "--case", case, "--model", model, "--hidden", "4", "--batch-size", "3"]
    arguments += ["--repeats", "2", "--json"]
    assert main(arguments) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert FIGURES <= set(figures)
    assert all(figures[name] > 0 for name in FIGURES)
    assert figures["ratio_to_floor"] == pytest.approx(figures["step_ms"] / figures["floor_ms"])


@pytest.mark.parametrize("option", ["batch_size", "repeats", "hidden"])
def test_bench_names_a_wrong_size(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", f"--{option.replace('_', '-')}", "0"]) == 2
    assert f"{option}: expected " in capsys.readouterr().err
