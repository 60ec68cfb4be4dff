"""List a run's checkpoints, with their arrays, sizes, metrics and configuration."""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from ..checkpoint import CheckpointFolder
from ..errors import CheckpointError
from ..training import RunFolder
from .options import console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pjax-prim inspect`."""
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="the folder of the run")
    parser.add_argument("--verify", action="store_true", help="compare every file with its checksum")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Prints what is in the folder; returns it."""
    folder = RunFolder(options.run_dir)
    config = folder.load_config()
    checkpoints = folder.checkpoints
    found = [_describe(checkpoints, step, options.verify) for step in checkpoints.steps()]
    out = console(options)
    table = Table(title=str(options.run_dir))
    for heading in ("step", "batch", "bytes", "test accuracy", "gap or loss", "state"):
        table.add_column(heading, justify="right")
    for entry in found:
        metrics = entry.get("metrics", {})
        accuracy, measure = metrics.get("test_accuracy"), metrics.get("gap", metrics.get("loss"))
        table.add_row(
            str(entry["step"]),
            _text(entry.get("batch")),
            _text(entry.get("bytes"), ","),
            _text(accuracy, ".2%"),
            _text(measure, ".3e"),
            entry["problem"] or ("verified" if options.verify else "complete"),
        )
    out.print(table)
    arrays: dict[str, Any] = next(
        (entry["arrays"] for entry in reversed(found) if entry["problem"] is None), {}
    )
    if arrays:
        table = Table(title="arrays of the newest undamaged checkpoint")
        for heading in ("path", "shape", "dtype", "bytes"):
            table.add_column(heading, justify="left" if heading == "path" else "right")
        for name, array in arrays.items():
            size = _size(array)
            table.add_row(name, str(array["shape"]), array["dtype"], "" if size is None else f"{size:,}")
        out.print(table)
    out.print("configuration: " + config.to_json(), markup=False, soft_wrap=True)
    return {"run_dir": str(options.run_dir), "config": config.to_dict(), "checkpoints": found}


def _describe(checkpoints: CheckpointFolder, step: int, verify: bool) -> dict[str, Any]:
    try:
        info = checkpoints.info(step)
        entry = {name: info[name] for name in ("batch", "start", "metrics", "versions", "data", "arrays")}
        entry |= {"step": step, "bytes": checkpoints.bytes(step), "problem": None}
        if verify:
            checkpoints.verify(step)
        return entry
    except CheckpointError as error:
        return {"step": step, "problem": str(error)}


def _size(array: dict[str, Any]) -> int | None:
    """Bytes in memory; None for a key, whose size is its implementation's."""
    try:
        return math.prod(array["shape"]) * np.dtype(array["dtype"]).itemsize
    except TypeError:
        return None


def _text(value: Any, form: str = "") -> str:
    return "" if value is None else format(value, form)
