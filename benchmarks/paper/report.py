"""One table and the curves of all results."""

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from pjax_prim.training.figures import first_within

from .cells import METHODS, TASKS, Cell
from .run import Result

COLUMNS = (
    "task",
    "method",
    "seeds",
    "test accuracy",
    "deviation",
    "best",
    "test loss, nats",
    "bits",
    "samples to 99%",
    "seconds to 99%",
    "ms a batch",
    "peak MB",
)


def rows(results: Mapping[Cell, Result]) -> list[dict[str, Any]]:
    """A row for each task and method, over its seeds; "to 99%" is of its own best accuracy."""
    table: list[dict[str, Any]] = []
    for task in dict.fromkeys(cell.task for cell in results):
        of_task = {cell: result for cell, result in results.items() if cell.task == task}
        for method in dict.fromkeys(cell.method for cell in of_task):
            found = [result for cell, result in of_task.items() if cell.method == method]
            names = {"task": TASKS[task].title, "method": METHODS[method]}
            done = [result for result in found if "skipped" not in result]
            if not done:
                table.append(names | {"test accuracy": found[0]["skipped"]})
                continue
            last = [result["test_accuracy"][-1] for result in done]
            nats = statistics.mean(result["test_loss"][-1] for result in done)
            reached = [_reaches(result) for result in done]
            table.append(
                names
                | {
                    "seeds": len(done),
                    "test accuracy": statistics.mean(last),
                    "deviation": statistics.stdev(last) if len(last) > 1 else None,
                    "best": max(max(result["test_accuracy"]) for result in done),
                    "test loss, nats": nats,
                    "bits": nats / math.log(2) if TASKS[task].data == "text" else None,
                    "samples to 99%": round(statistics.mean(samples for samples, _ in reached)),
                    "seconds to 99%": statistics.mean(seconds for _, seconds in reached),
                    "ms a batch": statistics.median(result["step_ms"] for result in done),
                    "peak MB": max(result["peak_bytes"] for result in done) / 1e6,
                }
            )
        known = [result["baseline"] for result in of_task.values() if "baseline" in result]
        if known:
            name, accuracy = known[0]
            table.append({"task": TASKS[task].title, "method": name, "test accuracy": accuracy})
    return table


def _reaches(result: Result) -> tuple[int, float]:
    """Samples and seconds at the first evaluation within 1% of a run's best."""
    first = first_within(result["test_accuracy"])
    assert first is not None
    return result["samples"][first], result["seconds"][first]


def write_csv(table: Sequence[Mapping[str, Any]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(table)


def sizes(results: Mapping[Cell, Result]) -> list[str]:
    """A line for each task: how many examples and batches of which size it has."""
    lines = []
    for task in dict.fromkeys(cell.task for cell in results):
        found = [result for cell, result in results.items() if cell.task == task and "sizes" in result]
        if found:
            train, test = found[0]["sizes"]
            batch = found[0]["config"]["options"]["batch_size"]
            batches = found[0]["samples"][-1] // batch
            lines.append(
                f"- {TASKS[task].title}: {train:,} training and {test:,} test examples, "
                f"{batches:,} batches of {batch}"
            )
    return lines


def write_markdown(
    table: Sequence[Mapping[str, Any]], path: Path, command: str, notes: Sequence[str] = ()
) -> None:
    lines = [f"`{command}`", "", f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    lines += [f"| {' | '.join(_cell(name, row.get(name)) for name in COLUMNS)} |" for row in table]
    path.write_text("\n".join([*lines, *(["", *notes] if notes else [])]) + "\n")


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    if name in ("test accuracy", "deviation", "best"):
        return f"{value:.2%}"
    return f"{value:.3f}" if name in ("test loss, nats", "bits") else f"{value:,.1f}"


def draw(results: Mapping[Cell, Result], task: str, out: Path) -> None:
    """Test accuracy against samples and against seconds, a line for each method, as PNG and SVG."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    for number, method in enumerate(METHODS):
        runs = [
            result
            for cell, result in results.items()
            if (cell.task, cell.method) == (task, method) and "skipped" not in result
        ]
        if not runs:
            continue
        accuracy = _mean([run["test_accuracy"] for run in runs])
        for axis, along in zip(axes, ("samples", "seconds"), strict=True):
            axis.plot(
                _mean([run[along] for run in runs]), accuracy, label=METHODS[method], color=f"C{number}"
            )
    axes[0].set(xlabel="samples", ylabel="test accuracy")
    axes[1].set(xlabel="seconds", xscale="log")
    axes[0].yaxis.set_major_formatter(PercentFormatter(1))
    axes[1].legend(frameon=False, fontsize="small")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    figure.suptitle(TASKS[task].title)
    for kind in ("png", "svg"):
        figure.savefig(out / f"{task}.{kind}", dpi=150, metadata={"Date": None} if kind == "svg" else None)


def _mean(runs: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.mean(values) for values in zip(*runs, strict=True)]
