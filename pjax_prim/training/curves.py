"""The picture of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checkpoint import storage_of
from ..errors import RunError


def draw_curves(rows: Sequence[dict[str, Any]], sets: Sequence[str], title: str, path: Path) -> None:
    """Draws accuracies (losses, where there are none) of the evaluation sets, and gap or loss, against
    batches, as PNG.

    **Arguments:** `rows`: the lines of `metrics.jsonl`; `sets`: the names of the evaluation sets.

    **Errors:** `RunError` where the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)

    is_classified = any(f"{name}_accuracy" in row for name in sets for row in rows)
    measure = "accuracy" if is_classified else "loss"
    for name in sets:
        key = f"{name}_{measure}"
        found = [(row["batch"], row[key]) for row in rows if row.get(key) is not None]
        if found:
            last = f"{found[-1][1]:.1%}" if is_classified else f"{found[-1][1]:.4g}"
            left.plot(*zip(*found, strict=True), ".-", label=f"{name}, {last} at the end")
    left.set(xlabel="batches", title=measure)
    if is_classified:
        left.yaxis.set_major_formatter(PercentFormatter(1))
    if left.lines:
        left.legend(frameon=False)

    kind = "gap" if sum("gap" in row for row in rows) > len(rows) / 2 else "loss"
    measured = [(row["batch"], row[kind]) for row in rows if row.get(kind) is not None]
    if measured:
        right.plot(*zip(*measured, strict=True), color="#1f5fa8", lw=1)
        if all(value > 0 for _, value in measured):
            right.set_yscale("log")
    right.set(xlabel="batches", title=f"{kind} {'after' if kind == 'gap' else 'before'} each batch")

    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.suptitle(title)
    try:
        with storage_of(path).writing(path) as file:
            figure.savefig(file, dpi=150, format="png")
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written ({error.strerror}); the run is complete without it, and --resume "
            "draws it"
        ) from None
