"""Train several seeds at once, and show how far they differ."""

import argparse
import statistics
from typing import Any

from rich.table import Table

from ..errors import ArgumentError
from ..training.seeds import ONE_SEED, SeedsResult, train_seeds
from .options import NETWORK, TRAINING, add_options, console, make_config
from .train import MEASURES

NOT_HERE = (*ONE_SEED, "seed", "chunk_steps")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pjax-prim seeds`."""
    shared = {name: option for name, option in {**NETWORK, **TRAINING}.items() if name not in NOT_HERE}
    add_options(parser, shared)
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="which (default: 0 1 2)"
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Trains; returns the figures."""
    if not options.seeds or min(options.seeds) < 0:
        raise ArgumentError(f"--seeds: expected numbers of at least 0, given {options.seeds}")
    result = train_seeds(make_config(options), options.seeds)
    console(options).print(make_table(result))
    return result.summary()


def make_table(result: SeedsResult) -> Table:
    """A line for each evaluation: means over the seeds and their standard deviations."""
    config = result.config
    seeds = ", ".join(map(str, result.seeds))
    table = Table(title=f"{config.data}, {config.model}, {config.solver}: seeds {seeds}")
    measures = [name for name in MEASURES if name in result.rows[-1]]
    for heading in ("batches", *(name.replace("_", " ") for name in measures)):
        table.add_column(heading, justify="right")
    for row in result.rows:
        cells = []
        for name in measures:
            spread = f" ± {statistics.stdev(row[name]):.2%}" if len(result.seeds) > 1 else ""
            cells.append(f"{statistics.mean(row[name]):.2%}{spread}")
        table.add_row(str(row["batch"]), *cells)
    return table
