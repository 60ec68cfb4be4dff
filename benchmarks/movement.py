"""Where projections move a network, and where its gap is: `python -m benchmarks.movement --data-dir DIR`.

MNIST, 784-128-128-10 with and without skips. `moved.png`: how far each layer's weights have moved over some
batches, relative to their length. `gaps.png`: the gap of each constraint over the steps of alternating
projections on one batch. Both go to the folder of `--out`, the figures to standard output.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jaxtyping import Array
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import pjax_prim as pjp
from pjax_prim.data import Dataset, batch, load
from pjax_prim.feasibility import FeasibilityProblem
from pjax_prim.models import MLP

from .solvers import plain, run

CONTESTANTS: dict[str, tuple[pjp.AbstractSolver, int]] = {
    "alternating": (pjp.AlternatingProjections(), 20),
    "cyclic": (pjp.CyclicProjections(), 20),
    "extrapolated": (pjp.ExtrapolatedProjections(), 1),
    "joint": (pjp.JointProjections(), 1),
}
"""Solver, and steps on each batch."""

SKIPS = {False: "without skips", True: "with skips"}


def gaps(dataset: Dataset, skip: bool, steps: Sequence[int]) -> dict[str, list[float]]:
    """The gap of every constraint after so many steps of alternating projections on the first batch."""
    model = MLP(dataset.features, dataset.classes, (128, 128), skip=skip, key=jax.random.key(0))

    def loss(model: MLP, x: Array, labels: Array) -> Array:
        return pjp.cross_entropy(jax.vmap(model)(x), labels)

    problem = FeasibilityProblem.of(loss, model, *batch(dataset, 256, seed=0, step=0))
    solver = pjp.AlternatingProjections()
    state = problem.init(solver)
    found: dict[str, list[float]] = {}
    for step in range(1, max(steps) + 1):
        state, by_node = problem.step(solver, state)
        if step in steps:
            for name, gap in by_node.items():
                found.setdefault(name, []).append(float(gap))
    return {name: values for name, values in found.items() if not name.startswith(".")}


def draw_moved(moved: dict[tuple[bool, str], list[float]], path: Path) -> None:
    figure, panels = _panels()
    for axes, skip in zip(panels, SKIPS, strict=True):
        for number, name in enumerate(CONTESTANTS):
            places = [layer + 0.2 * (number - 1.5) for layer in range(3)]
            axes.bar(places, moved[skip, name], 0.18, label=name)
        axes.set(title=SKIPS[skip], yscale="log", xticks=range(3))
        axes.set_xticklabels(["first layer", "second", "output"])
    panels[0].set_ylabel("relative change of the weights")
    panels[0].legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=80)


def draw_gaps(found: dict[bool, dict[str, list[float]]], steps: Sequence[int], path: Path) -> None:
    figure, panels = _panels()
    for axes, skip in zip(panels, SKIPS, strict=True):
        for name, values in found[skip].items():
            if any(value > 0 for value in values):
                axes.plot(steps, [value or float("nan") for value in values], label=name)
        axes.set(title=SKIPS[skip], xscale="log", yscale="log", xlabel="steps on one batch")
    panels[0].set_ylabel("gap")
    panels[1].legend(frameon=False, fontsize="x-small", ncols=2)
    figure.savefig(path, dpi=80)


def _panels() -> tuple[Figure, Any]:
    figure = Figure(figsize=(8, 3), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return figure, panels


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", required=True, help="where the MNIST files lie")
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--steps", type=int, default=200, help="on one batch, for the gaps (default: 200)")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    options = parser.parse_args()
    dataset = load("mnist", options.data_dir)
    moved = {}
    print("| network | solver | test accuracy | first layer moved | second | output |")
    print("|---|---|---|---|---|---|")
    for skip, label in SKIPS.items():
        for name, (solver, count) in CONTESTANTS.items():
            accuracy, changes, _ = run(dataset, solver, plain, count, options.batches, 0, skip)
            moved[skip, name] = changes
            figures = " | ".join(f"{change:.3g}" for change in changes)
            print(f"| {label} | {name} | {accuracy:.2%} | {figures} |", flush=True)
    draw_moved(moved, options.out / "moved.png")
    steps = sorted({round(options.steps ** (i / 19)) for i in range(20)})
    found = {skip: gaps(dataset, skip, steps) for skip in SKIPS}
    draw_gaps(found, steps, options.out / "gaps.png")
    for skip, label in SKIPS.items():
        print(label, {name: (values[0], values[-1]) for name, values in found[skip].items()})


if __name__ == "__main__":
    main()
