"""Time a solver step beside an Adam step and a copy of the state."""

import argparse
from typing import Any, get_args

from rich.table import Table

from ..errors import ArgumentError
from ..training.benchmark import CASES, Call, benchmark
from ..training.config import HIDDEN, check_hidden
from .options import SIZES, console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pjax-prim bench`."""
    parser.add_argument("--case", choices=tuple(CASES), default="ap", help="the solver (default: ap)")
    parser.add_argument("--model", choices=tuple(HIDDEN), default="mlp", help="the network (default: mlp)")
    parser.add_argument(
        "--hidden",
        type=int,
        nargs="*",
        metavar="N",
        help=f"widths; of a cnn, channels (default: {SIZES})",
    )
    parser.add_argument(
        "--batch-size", type=int, default=256, metavar="N", help="examples per batch (default: 256)"
    )
    parser.add_argument("--repeats", type=int, default=11, metavar="N", help="timed calls (default: 11)")
    parser.add_argument(
        "--call",
        choices=get_args(Call),
        default="keep",
        help="each call gives new arrays, overwrites the state, or takes 10 steps (default: keep)",
    )
    parser.add_argument(
        "--no-skip", action="store_true", help="the output layer reads the last hidden layer only"
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns the figures."""
    hidden = HIDDEN[options.model] if options.hidden is None else tuple(options.hidden)
    if problem := check_hidden(options.model, hidden):
        raise ArgumentError(f"--hidden: {problem}")
    sizes = {"--batch-size": options.batch_size, "--repeats": options.repeats, "--hidden": hidden}
    for flag, value in sizes.items():
        if any(number < 1 for number in (value if flag == "--hidden" else [value])):
            raise ArgumentError(f"{flag}: expected whole numbers of at least 1, given {value}")
    figures = benchmark(
        options.case,
        hidden,
        options.batch_size,
        model=options.model,
        skip=not options.no_skip,
        repeats=options.repeats,
        call=options.call,
    )
    table = Table(title=f"{options.case}, {options.model} {list(hidden)}, batch {options.batch_size}")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in figures.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else f"{value:.4g}")
    console(options).print(table)
    return figures
