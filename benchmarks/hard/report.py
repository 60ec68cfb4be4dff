"""The table and the picture of results."""

import statistics
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .networks import ROWS

POLYSTEP_PASSES = 30e6
PASSES = 3
"""What a step by displacement costs in forward passes, as a gradient's."""


def accuracies(found: dict[str, Any]) -> list[float]:
    """The accuracies of all seeds of a method."""
    return [run["accuracy"] for run in found["runs"]]


def passes(name: str, found: dict[str, Any]) -> int:
    """Forward passes of a batch that one training costs."""
    row = ROWS[name]
    examples = 60_000 * len(row.data)
    return PASSES * row.epochs * (examples // row.batch_size)


def table(results: dict[str, Any]) -> str:
    """In Markdown: test accuracies with standard errors over seeds."""
    lines = [
        "| network | data | method | rate | test accuracy | standard error | seeds | seconds a run |"
        " step ms | PolyStep | gradients in its table |",
        "|---" * 11 + "|",
    ]
    for name, of_row in results.items():
        row, times = ROWS[name], of_row.get("step_ms", {})
        for method, found in of_row["methods"].items():
            values = accuracies(found)
            if not values:
                continue
            error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
            seconds = statistics.median(run["seconds"] for run in found["runs"])
            milliseconds = f"{times[method]:.2f}" if method in times else ""
            lines.append(
                f"| {row.title} | {' and '.join(row.data)} | {method} | {found['rate']:g} |"
                f" {statistics.mean(values):.2f} | {error:.2f} | {len(values)} | {seconds:.0f} |"
                f" {milliseconds} | {row.polystep} | {row.target} |"
            )
    lines += [
        "",
        "| network | forward passes of a batch | of PolyStep's | step / best estimator's |",
        "|---" * 4 + "|",
    ]
    for name, of_row in results.items():
        count = passes(name, of_row)
        times = dict(of_row.get("step_ms", {}))
        ratio = ""
        if times:
            mine = times.pop("displacement")
            ratio = ", ".join(f"{mine / other:.2f} ({method})" for method, other in times.items())
        lines.append(f"| {ROWS[name].title} | {count:,} | 1/{POLYSTEP_PASSES / count:,.0f} | {ratio} |")
    return "\n".join(lines)


def write(results: dict[str, Any], folder: Path) -> None:
    """`table.md` and `accuracy.png`."""
    (folder / "table.md").write_text(table(results) + "\n")
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    shown = [name for name, found in results.items() if any(m["runs"] for m in found["methods"].values())]
    if not shown:
        return
    methods = list(dict.fromkeys(m for name in shown for m in results[name]["methods"] if m != "gradient"))
    for axes, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        for place, method in enumerate(methods):
            found = results[name]["methods"].get(method)
            if found and found["runs"]:
                values = accuracies(found)
                label = method if name == shown[0] or method not in results[shown[0]]["methods"] else None
                axes.plot(
                    [place] * len(values),
                    values,
                    "o",
                    markersize=4,
                    alpha=0.7,
                    color=f"C{place}",
                    label=label,
                )
        axes.axhline(ROWS[name].polystep, color="black", linestyle=":", linewidth=1)
        axes.axhline(ROWS[name].target, color="grey", linestyle="--", linewidth=1)
        axes.set_title(ROWS[name].title.split(",")[0], fontsize=9)
        axes.set_xticks([])
        axes.tick_params(labelsize=8)
    figure.supylabel("test accuracy, %", fontsize=9)
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, fontsize=8)
    figure.savefig(folder / "accuracy.png", dpi=120)
