"""Train several seeds at once, and show how far they differ."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from ..errors import ArgumentError
from ..training import TrainConfig
from ..training.seeds import SeedsResult, train_seeds
from .eval import columns, show
from .options import Output, choose_task, parse, peek, print_table


@dataclass(frozen=True)
class Seeds:
    """Which seeds.

    Attributes:
        seeds: numbers that differ.
    """

    seeds: tuple[int, ...] = (0, 1, 2)


def run(arguments: Sequence[str]) -> dict[str, Any]:
    """Trains; returns the figures."""
    file, start, rest = choose_task(arguments)
    config = file.train_config(peek(rest, "--solver"))
    parts = {"task": (file.options, start), "train": (TrainConfig, config), "seeds": (Seeds, Seeds()),
             "output": (Output, Output())}  # fmt: skip
    options = parse("seeds", rest, parts, __doc__ or "")
    seeds = options.seeds.seeds
    if not seeds or min(seeds) < 0:
        raise ArgumentError(f"--seeds: expected numbers of at least 0, given {list(seeds)}")
    result = train_seeds(file.make(options.task), options.train, seeds)
    print_table(options.output.console(), make_table(result))
    return result.summary()


def make_table(result: SeedsResult) -> Table:
    """A line for each evaluation: means over the seeds and their standard deviations."""
    seeds = ", ".join(map(str, result.seeds))
    table = Table(title=f"{result.task.name}, {result.config.method.solver}: seeds {seeds}")
    names = columns(result.rows[-1])
    for heading in ("batches", *(name.replace("_", " ") for name in names)):
        table.add_column(heading, justify="right")
    for row in result.rows:
        cells = []
        for name in names:
            spread = f" ± {show(name, statistics.stdev(row[name]))}" if len(result.seeds) > 1 else ""
            cells.append(f"{show(name, statistics.mean(row[name]))}{spread}")
        table.add_row(str(row["batch"]), *cells)
    return table
