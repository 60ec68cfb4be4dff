"""The picture of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter


def draw_curves(rows: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """Draws accuracy and gap (the loss, for a run without gap) against batches, as PNG.

    **Arguments:** `rows`: the lines of `metrics.jsonl`.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)

    evaluated = [row for row in rows if "test_accuracy" in row]
    for name, colour in (("train", "#7f7f7f"), ("test", "#1f5fa8")):
        values = [row[f"{name}_accuracy"] for row in evaluated]
        label = f"{name}, {values[-1]:.1%} at the end"
        left.plot([row["batch"] for row in evaluated], values, ".-", color=colour, label=label)
    left.set(xlabel="batches", title="accuracy")
    left.yaxis.set_major_formatter(PercentFormatter(1))
    left.legend(frameon=False, loc="lower right")

    kind = "gap" if any("gap" in row for row in rows) else "loss"
    measured = [row for row in rows if kind in row]
    right.plot([row["batch"] for row in measured], [row[kind] for row in measured], color="#1f5fa8", lw=1)
    right.set(xlabel="batches", title=f"{kind} {'after' if kind == 'gap' else 'before'} each batch")
    if measured and all(row[kind] > 0 for row in measured):
        right.set_yscale("log")

    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.suptitle(title)
    figure.savefig(path, dpi=150)
