"""Report the figures of a run's newest checkpoint."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from ..checkpoint import as_path
from ..errors import ArgumentError
from ..training import RunFolder, evaluate_run
from .options import Choice, Output, Place, choose_task, parse, peek, print_table


@dataclass(frozen=True)
class Run:
    """What is evaluated.

    Attributes:
        run_dir: the folder of the run.
    """

    run_dir: Place


def run(arguments: Sequence[str]) -> dict[str, Any]:
    """Evaluates; returns all figures and the hash of the parameters. Options of the task are as in
    training."""
    place = peek(arguments, "--run-dir")
    helps = place is None and {"--help", "-h"} & {*arguments}
    if place is None and not helps:
        raise ArgumentError("--run-dir: needs the folder of the run")
    folder = RunFolder(as_path(place or "."))
    file, start, rest = choose_task(arguments, saved=None if helps else folder)
    parts = {"task": (file.options, start), "run": (Run, Run(folder.path)), "choice": (Choice, Choice()),
             "output": (Output, Output())}  # fmt: skip
    options = parse("eval", rest, parts, __doc__ or "")
    task = file.make(options.task)
    result = evaluate_run(task, folder, which=options.choice.parameters, step=options.choice.step)
    print_table(options.output.console(), make_table(str(folder.path), result))
    return result


def make_table(title: str, figures: dict[str, Any]) -> Table:
    """A row for each number."""
    table = Table(title=title)
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in figures.items():
        if not isinstance(value, str):
            table.add_row(name.replace("_", " "), show(name, value))
    return table


def columns(row: Iterable[str]) -> list[str]:
    """Which figures of a row a narrow table has: of those that follow from the loss bits alone, and of the
    training set no loss beside an accuracy."""
    names = [name for name in row if name not in ("batch", "skipped") and not name.endswith("_perplexity")]
    spare = ("train_loss", "train_bits") if "train_accuracy" in names else ()
    return [name for name in names if name not in spare]


def show(name: str, value: Any) -> str:
    """A figure as a table has it: accuracies in percent."""
    if value is None:
        return "-"
    return f"{value:.2%}" if name.endswith("accuracy") else f"{value:.4g}"
