"""Time a step of a task beside an Adam step and a copy of the state."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from ..errors import ArgumentError
from ..training.benchmark import CASES, Call, Case, case_of, compare
from .options import Output, choose_task, parse, print_table


@dataclass(frozen=True)
class Bench:
    """What is timed.

    Attributes:
        case: the solver.
        repeats: timed calls.
        call: each call gives new arrays, overwrites the state, or takes 10 steps.
        seed: of the parameters and the data.
    """

    case: Case = "ap"
    repeats: int = 11
    call: Call = "keep"
    seed: int = 0


def run(arguments: Sequence[str]) -> dict[str, Any]:
    """Prints and returns the figures. Without a task, of a network on random examples."""
    file, start, rest = choose_task(arguments, default="random")
    parts = {"task": (file.options, start), "bench": (Bench, Bench()), "output": (Output, Output())}
    options = parse("bench", rest, parts, __doc__ or "")
    bench = options.bench
    if bench.repeats < 1:
        raise ArgumentError(f"repeats: expected at least 1, given {bench.repeats}")
    task = file.make(options.task)
    figures = compare(CASES[bench.case], *case_of(task, bench.seed), bench.repeats, bench.call)
    table = Table(title=f"{bench.case}, {task.name}")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in figures.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else f"{value:.4g}")
    print_table(options.output.console(), table)
    return figures
