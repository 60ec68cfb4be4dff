"""Report the accuracies of the model in a run folder."""

import argparse
from pathlib import Path
from typing import Any

from rich.table import Table

from ..training import RunFolder, evaluate_run
from .options import console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pjax-prim eval`."""
    parser.add_argument("--run-dir", type=Path, metavar="DIR", required=True, help="the folder of the run")
    parser.add_argument("--data-dir", metavar="DIR", help="where the data lie now (default: as in training)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Evaluates; returns accuracies and the hash of the parameters."""
    result = evaluate_run(RunFolder(options.run_dir), options.data_dir)
    table = Table(title=str(options.run_dir))
    for name in ("train_accuracy", "test_accuracy"):
        table.add_column(name.replace("_", " "), justify="right")
    table.add_row(f"{result['train_accuracy']:.2%}", f"{result['test_accuracy']:.2%}")
    console(options).print(table)
    return result
