"""Train a network and leave model, metrics and curves in a run folder."""

import argparse
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .. import data
from ..training import RunFolder, TrainConfig, TrainResult, train
from .options import NETWORK, TRAINING, add_options, console, make_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pjax-prim train`."""
    add_options(parser, {**NETWORK, **TRAINING})
    parser.add_argument(
        "--run-dir", type=Path, metavar="DIR", help="the run folder (default: a new one under runs/)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a run that is in the run folder")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Trains; returns the figures of the run."""
    config = make_config(options)
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{config.data}-{config.solver}"
    folder = RunFolder(options.run_dir or Path("runs") / name)
    with make_progress() as progress:
        task = progress.add_task("compiling", total=config.batches, figures="")

        def show(row: dict[str, Any]) -> None:
            progress.update(task, completed=row["batch"], description="training", figures=figures(row))

        result = train(config, folder, overwrite=options.overwrite, on_batch=show)
    out = console(options)
    out.print(make_table(result))
    out.print(f"compiled in {result.compile_seconds:.1f} s, trained in {result.seconds:.1f} s; run folder:")
    out.print(str(folder.path), soft_wrap=True)
    name, share = data.baseline(config.load_data())
    out.print(f"for comparison, the {name}: {share:.2%} of the test labels")
    return {**result.summary(), "baseline_accuracy": share, "run_dir": str(folder.path)}


def make_progress() -> Progress:
    """A progress bar on standard error."""
    columns = (
        TextColumn("{task.description:9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))


def figures(row: dict[str, Any]) -> str:
    """Gap or loss of one batch, for the progress bar."""
    kind = "gap" if "gap" in row else "loss"
    return f"{kind} {row[kind]:.2e}"


def make_table(result: TrainResult) -> Table:
    """One line per evaluation."""
    config: TrainConfig = result.config
    kind = "gap" if "gap" in result.rows[-1] else "loss"
    steps = f"{config.steps} step{'s' if config.steps > 1 else ''} a batch of {config.batch_size}"
    table = Table(title=f"{config.data}, {config.model}, {config.solver}: {steps}")
    for heading in ("batches", "train accuracy", "test accuracy", kind, "batches/s"):
        table.add_column(heading, justify="right")
    before = {"batch": 0, "seconds": 0.0}
    for row in result.rows:
        if "test_accuracy" in row:
            accuracies = [f"{row[name]:.2%}" for name in ("train_accuracy", "test_accuracy")]
            speed = (row["batch"] - before["batch"]) / (row["seconds"] - before["seconds"])
            table.add_row(str(row["batch"]), *accuracies, f"{row[kind]:.3e}", f"{speed:.1f}")
            before = row
    return table
