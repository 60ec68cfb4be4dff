"""Draws the pictures of the pages: `python docs/tools/pictures.py`.

What they show is computed by the library, or read from the tables of `benchmarks/RESULTS.md`.
"""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

import pjax_prim as pjp  # noqa: E402

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "pictures"
BLUE, ORANGE, GREY = "#3b5bdb", "#e8590c", "#868e96"


def two_sets() -> Any:
    """Alternating projections between the graph of tanh and a line."""
    figure, axes = plt.subplots(figsize=(5.6, 3.6))
    grid = jnp.linspace(-1.0, 1.6, 200)
    axes.plot(grid, jnp.tanh(grid), color=BLUE, label="set A: y = tanh x")
    axes.axhline(0.6, color=ORANGE, label="set B: y = 0.6")
    x, path = jnp.array(-0.8), [(-0.8, 0.6)]
    for _ in range(8):
        x = pjp.project_scalar(x, jnp.array(0.6), "tanh")
        path += [(float(x), float(jnp.tanh(x))), (float(x), 0.6)]
    axes.plot(*zip(*path, strict=True), "-o", color=GREY, markersize=3, linewidth=1, label="the iterates")
    axes.set(xlabel="x", ylabel="y", ylim=(-0.8, 1.0), aspect="equal")
    axes.legend(loc="lower right", frameon=False)
    return figure


def copies() -> Any:
    """A network, and the same with a copy of each number for each statement."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.0), width_ratios=(2, 3))
    for axes in (left, right):
        axes.axis("off")
        axes.set(xlim=(0, 10), ylim=(0, 6))
    box = {"boxstyle": "round,pad=0.35", "facecolor": "#edf2ff", "edgecolor": BLUE}
    value = {"boxstyle": "circle,pad=0.3", "facecolor": "white", "edgecolor": GREY}

    def put(axes: Any, x: float, y: float, text: str, style: dict[str, Any]) -> None:
        axes.text(x, y, text, ha="center", va="center", fontsize=9, bbox=style)

    def line(axes: Any, a: tuple[float, float], b: tuple[float, float], color: str, style: str = "-") -> None:
        axes.plot(*zip(a, b, strict=True), color=color, linestyle=style, linewidth=1, zorder=0)

    left.set_title("the network", fontsize=10)
    right.set_title("its statements, with copies", fontsize=10)
    places = {"x": (0.8, 4.2), "w": (0.8, 1.8), "h": (4.2, 3), "v": (4.2, 0.9), "y": (8.6, 3)}
    for name, place in places.items():
        put(left, *place, name, value)
    for a, b in (("x", "h"), ("w", "h"), ("h", "y"), ("v", "y")):
        line(left, places[a], places[b], GREY)
    statements = ((1.9, "h = relu(w x)", "xwh"), (5.2, "y = v h", "hvy"), (8.6, "loss(y) is small", "y"))
    seen: dict[str, list[tuple[float, float]]] = {}
    for x, text, names in statements:
        put(right, x, 4.6, text, box)
        for i, name in enumerate(names):
            place = (x + 1.1 * (i - (len(names) - 1) / 2), 2.2)
            put(right, *place, name, value)
            line(right, place, (x, 4.6), BLUE)
            seen.setdefault(name, []).append(place)
    for several in seen.values():
        for (x1, y1), (x2, _) in zip(several, several[1:], strict=False):
            right.annotate(
                "",
                (x2, y1 - 0.45),
                (x1, y1 - 0.45),
                arrowprops={"arrowstyle": "-", "color": ORANGE, "connectionstyle": "arc3,rad=0.45"},
            )
    right.text(5.2, 0.5, "copies of one number agree", ha="center", color=ORANGE, fontsize=9)
    return figure


def step() -> Any:
    """What a displacement passes through sign(x)."""
    x = jnp.linspace(-3, 3, 241)
    passed = jax.vmap(pjp.displacement(jnp.sign))(x)
    figure, axes = plt.subplots(figsize=(5.2, 2.8))
    axes.plot(x, jnp.sign(x), color=GREY, label="sign(x)")
    axes.plot(x, passed, color=BLUE, label="the share of a signal that a displacement passes on")
    axes.axhline(0, color=ORANGE, linewidth=1, linestyle="--", label="the derivative")
    axes.set(xlabel="x", ylim=(-1.2, 1.9))
    axes.legend(loc="upper left", frameon=False, fontsize=8)
    return figure


def tables(file: str = "RESULTS.md") -> list[list[list[str]]]:
    """The tables of a file of figures, as rows of cells; the first row is the head."""
    found: list[list[list[str]]] = [[]]
    for line in (ROOT / "benchmarks" / file).read_text().splitlines():
        if line.startswith("|"):
            cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
            if not all(set(cell) <= set("-: ") for cell in cells):
                found[-1].append(cells)
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def rows_of(*heads: str, file: str = "RESULTS.md") -> list[dict[str, str]]:
    """The rows, by head, of the first table that has these columns."""
    for first, *rows in tables(file):
        if set(heads) <= set(first):
            return [dict(zip(first, row, strict=True)) for row in rows]
    raise ValueError(f"no table has the columns {heads}")


def number(text: str) -> float:
    """The first number in a cell."""
    found = re.search(r"-?[\d,]*\.?\d+", text)
    assert found is not None, text
    return float(found[0].replace(",", ""))


def bars(rows: list[tuple[str, float]], label: str, start: float = 0.0, form: str = "{:g}") -> Any:
    figure, axes = plt.subplots(figsize=(6, 0.5 + 0.34 * len(rows)))
    names, values = zip(*reversed(rows), strict=True)
    drawn = axes.barh(names, values, color=BLUE, height=0.62)
    axes.bar_label(drawn, [form.format(x) for x in values], padding=3, fontsize=8)
    axes.set(xlabel=label, xlim=(start, start + 1.12 * (max(values) - start)))
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


QUICK = "results/quick-mlp/table.md"
NAMES = {
    "ap": "alternating projections",
    "cp": "cyclic projections",
    "ep": "extrapolated projections",
    "jp": "joint projections",
    "displacement + Adam": "displacement and Adam",
    "Adam": "gradient and Adam",
    "SGD": "gradient and SGD",
}


def methods() -> Any:
    """Accuracy on MNIST after 150 batches."""
    rows = [row for row in rows_of("task", "method", file=QUICK) if row["task"] == "MNIST, MLP"]
    shown = [(NAMES[row["method"]], number(row["test accuracy"])) for row in rows if row["method"] in NAMES]
    return bars(shown, "test accuracy on MNIST after 150 batches of 256, %", 70)


def seconds() -> Any:
    """Time of a batch, for the same runs."""
    rows = [row for row in rows_of("task", "method", file=QUICK) if row["task"] == "MNIST, MLP"]
    shown = [(NAMES[row["method"]], number(row["ms a batch"])) for row in rows if row["method"] in NAMES]
    return bars(shown, "milliseconds for a batch of 256, on one CPU core")


def pairs(rows: list[tuple[str, float, float]], names: tuple[str, str], label: str) -> Any:
    """Two bars for each row."""
    figure, axes = plt.subplots(figsize=(6, 0.7 + 0.5 * len(rows)))
    for shift, color, name, column in ((0.2, BLUE, names[0], 1), (-0.2, ORANGE, names[1], 2)):
        places = [len(rows) - i + shift for i in range(len(rows))]
        drawn = axes.barh(places, [row[column] for row in rows], 0.36, color=color, label=name)
        axes.bar_label(drawn, fmt="{:g}", padding=3, fontsize=8)
    axes.set_yticks([len(rows) - i for i in range(len(rows))], [row[0] for row in rows])
    axes.set(xlabel=label, xlim=(0, 1.2 * max(max(row[1:]) for row in rows)))
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.4, 1), ncols=2)
    return figure


def ratios() -> Any:
    """A displacement beside a gradient: time of a step and of compiling."""
    compiling = "trace + compile (CPU seconds)"
    rows = rows_of("network", "step", compiling, "cosine")
    shown = [(row["network"].split(",")[0], number(row["step"]), number(row[compiling])) for row in rows]
    return pairs(shown, ("a step", "tracing and compiling"), "times the gradient's")


def boolean() -> Any:
    """Boolean networks that were found exactly."""
    rows = rows_of("task", "solved", "Adam: solved")
    shown = [
        (row["task"].split("`")[0].replace(".py", "").replace(" --", " "), row["solved"], row["Adam: solved"])
        for row in rows
    ]
    numbers = [(name.split(" starts")[0], number(a), number(b)) for name, a, b in shown]
    return pairs(numbers, ("reflect-reflect-relax", "Adam, straight-through"), "starts solved exactly, %")


def lengths() -> Any:
    """A recurrent network by the length of its sequences."""
    rows = rows_of("length", "step ms", "Adam step ms", "products ms")
    figure, axes = plt.subplots(figsize=(5.2, 2.8))
    x = [number(row["length"]) for row in rows]
    for column, color, name in (
        ("step ms", BLUE, "alternating projections"),
        ("Adam step ms", ORANGE, "gradient and Adam"),
        ("products ms", GREY, "the matrix products alone"),
    ):
        axes.plot(x, [number(row[column]) for row in rows], "-o", color=color, markersize=4, label=name)
    axes.set(xlabel="length of the sequences", ylabel="milliseconds a step", ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def save(name: str, figure: Any) -> None:
    """Writes a small file without dates, so that it changes only when the picture does."""
    plt.rcParams["svg.hashsalt"] = name
    figure.savefig(FOLDER / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    plt.rcParams |= {"font.size": 9, "svg.fonttype": "none", "font.family": "sans-serif"}
    for draw in (two_sets, copies, step, methods, seconds, ratios, boolean, lengths):
        save(draw.__name__, draw())
