"""List a run's checkpoints, with their arrays, sizes, metrics and configuration."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro
from rich.table import Table

from ..checkpoint import CheckpointFolder
from ..errors import CheckpointError
from ..training import RunFolder
from .eval import show
from .options import Output, Place, parse, print_table


@dataclass(frozen=True)
class Inspect:
    """What is looked at.

    Attributes:
        run_dir: the folder of the run.
        verify: compare every file with its checksum.
    """

    run_dir: tyro.conf.Positional[Place]
    verify: bool = False


def run(arguments: Sequence[str]) -> dict[str, Any]:
    """Prints what is in the folder; returns it.

    **Errors:** `CheckpointError` after all is printed, where files were to be verified and some are damaged.
    """
    parts = {"run": (Inspect, Inspect(tyro.MISSING)), "output": (Output, Output())}
    parsed = parse("inspect", arguments, parts, __doc__ or "")
    options = parsed.run
    folder = RunFolder(options.run_dir)
    config, origin = folder.load_config(), folder.load_origin()
    checkpoints = folder.checkpoints
    found = [_describe(checkpoints, step, options.verify) for step in checkpoints.steps()]
    problems = [entry["problem"] for entry in found if entry["problem"] is not None]
    out = parsed.output.console()
    table = Table(title=str(options.run_dir))
    for heading in ("step", "batch", "bytes", "metrics", "state"):
        table.add_column(heading, justify="right")
    for entry in found:
        metrics = {name: x for name, x in entry.get("metrics", {}).items() if name != "batch"}
        table.add_row(
            str(entry["step"]),
            _text(entry.get("batch")),
            _text(entry.get("bytes"), ","),
            ", ".join(f"{name} {show(name, x)}" for name, x in metrics.items()),
            entry["problem"] or ("verified" if options.verify else "complete"),
        )
    print_table(out, table)
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
        print_table(out, table)
    whole = {"task": origin, "config": config.to_dict()}
    out.print("configuration: " + json.dumps(whole, indent=2), markup=False, soft_wrap=True)
    result = {"run_dir": str(options.run_dir), **whole, "checkpoints": found}
    if options.verify and problems:
        if parsed.output.json:
            print(json.dumps(result), flush=True)
        raise CheckpointError(f"{len(problems)} of {len(found)} checkpoints are damaged; {problems[0]}")
    return result


def _describe(checkpoints: CheckpointFolder, step: int, verify: bool) -> dict[str, Any]:
    try:
        info = checkpoints.info(step)
        entry = {
            name: info[name]
            for name in ("batch", "start", "position", "metrics", "versions", "data", "arrays")
        }
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
