"""Report the accuracies of a run's newest checkpoint."""

import argparse
from pathlib import Path
from typing import Any

from rich.table import Table

from ..checkpoint import WHICH
from ..training import RunFolder, evaluate_run
from .options import console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pjax-prim eval`."""
    parser.add_argument("--run-dir", type=Path, metavar="DIR", required=True, help="the folder of the run")
    parser.add_argument("--data-dir", metavar="DIR", help="where the data lie now (default: as in training)")
    add_choice(parser)


def add_choice(parser: argparse.ArgumentParser) -> None:
    """The options that choose parameters of a run."""
    parser.add_argument("--step", type=int, metavar="N", help="the checkpoint (default: the newest)")
    parser.add_argument(
        "--parameters", choices=tuple(WHICH), default="last", help="which of its parameters (default: last)"
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Evaluates; returns accuracies and the hash of the parameters."""
    folder = RunFolder(options.run_dir)
    result = evaluate_run(folder, options.data_dir, which=options.parameters, step=options.step)
    table = Table(title=str(options.run_dir))
    for name in ("train_accuracy", "test_accuracy"):
        table.add_column(name.replace("_", " "), justify="right")
    table.add_row(f"{result['train_accuracy']:.2%}", f"{result['test_accuracy']:.2%}")
    console(options).print(table)
    return result
