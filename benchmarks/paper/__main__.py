"""Every task by every method: `python -m benchmarks.paper --data-dir DIR`.

DIR holds the folders mnist, fashion-mnist, cifar10, higgs and text, or some of them. All methods of a
task see the same samples with the same network. A cell that is done is not run again, and one that was
interrupted goes on. Leaves table.md, table.csv and a picture for each task in the folder of the results.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from . import report
from .cells import FULL, METHODS, QUICK, TASKS, Cell, is_there
from .run import Result, run_cell


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data-dir", type=Path, help="where the folders of the data sets lie")
    parser.add_argument("--out", type=Path, default=Path("runs/paper"), help="folder of the results")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK}, for two CPU cores; else {FULL}")
    parser.add_argument("--batches", type=int, help="instead of those")
    parser.add_argument("--evaluations", type=int, help="of a run, instead of those")
    parser.add_argument("--batch-size", type=int, help="of every task, instead of its own")
    parser.add_argument(
        "--memory",
        type=float,
        default=0.6 * _memory_gb(),
        help="GB that a run may take (default: %(default).0f)",
    )
    options = parser.parse_args(arguments)
    budget = QUICK if options.quick else FULL
    for name in ("batches", "evaluations", "batch_size"):
        if getattr(options, name) is not None:
            budget = replace(budget, **{name: getattr(options, name)})
    results: dict[Cell, Result] = {}
    for task in options.tasks:
        if not is_there(TASKS[task], options.data_dir):
            print(f"{TASKS[task].title}: left out, its data are not there", file=sys.stderr)
            continue
        for method in options.methods:
            for seed in range(options.seeds):
                cell = Cell(task, method, seed)
                result = run_cell(cell, options.data_dir, budget, options.out, 1e9 * options.memory)
                results[cell] = result
                state = result.get("skipped") or f"{result['test_accuracy'][-1]:.2%}"
                print(f"{cell}: {state}", file=sys.stderr, flush=True)
        report.draw(results, task, options.out)
    if not results:
        parser.error("no task has its data in --data-dir")
    table = report.rows(results)
    shown = list(sys.argv[1:] if arguments is None else arguments)
    for flag in ("--data-dir", "--out"):
        if flag in shown:
            shown[shown.index(flag) + 1] = "DIR"
    command = " ".join(["python -m benchmarks.paper", *shown])
    report.write_markdown(table, options.out / "table.md", command, report.sizes(results))
    report.write_csv(table, options.out / "table.csv")
    print((options.out / "table.md").read_text())


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


if __name__ == "__main__":
    main()
