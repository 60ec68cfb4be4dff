"""The pictures of docs/hard_functions.md.

    python -m benchmarks.hard.pictures --data-dir DIR --fashion-dir DIR

Spikes over time of a network that displacements trained, the routes of a mixture, and a circuit that a
solver found.
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import pjax_prim as pjp
from pjax_prim.models import ThresholdNetwork

from .networks import load
from .run import Trainer

GARMENTS = ("shirt", "trousers", "pullover", "dress", "coat", "sandal", "blouse", "sneaker", "bag", "boot")


def figure(width: float, height: float, parts: int = 1, **settings: Any) -> tuple[Figure, Any]:
    """An empty figure with its axes in a row."""
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made, made.subplots(1, parts, squeeze=False, **settings)[0]


def windows(out: Path) -> None:
    """What passes through hard functions, beside their values."""
    x = jnp.linspace(-1.5, 2.5, 801)
    shown = {
        "x >= 0.5": lambda x: (x >= 0.5).astype(x.dtype),
        "sign(x)": jnp.sign,
        "floor(x)": jnp.floor,
    }
    made, axes = figure(8, 2.2, len(shown))
    for place, (title, function) in zip(axes, shown.items(), strict=True):
        passed = pjp.displacement(lambda x, f=function: jnp.sum(f(x)))(x)
        place.plot(x, function(x), color="black", linewidth=1, label="value")
        place.plot(x, passed, color="C0", label="share of a signal that passes")
        place.set_title(title, fontsize=9)
        place.tick_params(labelsize=7)
    axes[1].legend(fontsize=7, loc="lower right")
    made.savefig(out / "windows.png", dpi=110)


def spikes(folders: dict[str, Path], out: Path, epochs: int) -> None:
    """An image, and which neurons fire at each step."""
    dataset = load("spiking", folders)
    model, _ = Trainer("spiking", "displacement", dataset, 0, epochs).train_model(2e-3, seed=0)
    image, label = dataset.test_x[0], dataset.test_y[0]
    hidden, output = model.spikes(jnp.asarray(image))
    made, axes = figure(8, 2.8, 3, width_ratios=(1, 2.2, 2.2))
    axes[0].imshow(image.reshape(28, 28), cmap="Greys")
    axes[0].set_title(f"input, a {label}", fontsize=9)
    axes[0].set_axis_off()
    for place, found, title in ((1, hidden, "hidden neurons"), (2, output, "outputs")):
        step, neuron = np.nonzero(np.asarray(found))
        size = 3 if place == 1 else 8
        axes[place].plot(step + 1, neuron, "|" if place == 1 else "o", color="C0", markersize=size)
        axes[place].set_title(title, fontsize=9)
        axes[place].set_xlabel("step of time", fontsize=8)
        axes[place].tick_params(labelsize=7)
        axes[place].set_xlim(0.3, len(found) + 0.7)
    axes[2].set_yticks(range(10))
    axes[2].set_ylim(-0.6, 9.6)
    made.savefig(out / "spikes.png", dpi=110)


def routes(folders: dict[str, Path], out: Path, epochs: int) -> None:
    """The share of each class that goes to each expert."""
    dataset = load("mixture", folders)
    model, _ = Trainer("mixture", "displacement", dataset, 0, epochs).train_model(2e-3, seed=0)
    chosen = jax.lax.map(model.route, jnp.asarray(dataset.test_x), batch_size=1000)
    shares = np.stack([np.asarray(chosen)[dataset.test_y == label].mean(0) for label in range(20)], 1)
    made, (axes,) = figure(8, 2.4)
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(20), [*map(str, range(10)), *GARMENTS], rotation=60, fontsize=8)
    axes.set_yticks(range(len(shares)), [f"expert {i + 1}" for i in range(len(shares))], fontsize=8)
    made.colorbar(shown, ax=axes, label="share of test examples")
    made.savefig(out / "routes.png", dpi=110)


def circuit(out: Path) -> None:
    """Exclusive or by threshold neurons, as the solver finds it."""
    x = jnp.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    y = jnp.array([[-1.0], [1], [1], [-1]])
    found = pjp.solve_starts(
        lambda model, x, y: pjp.equality(jax.vmap(model)(x), y),
        lambda key: ThresholdNetwork((2, 3, 1), key=key),
        x,
        y,
        key=jax.random.key(0),
        starts=4,
        solver=pjp.ReflectReflectRelax(),
        max_steps=1000,
        is_solved=lambda model: jnp.all(jax.vmap(model)(x) == y),
    )
    first = int(np.argmax(jax.vmap(lambda model: jnp.all(jax.vmap(model)(x) == y))(found.params)))
    weights = [np.asarray(leaf[first]) for leaf in jax.tree.leaves(found.params)]
    made = Figure(figsize=(5.5, 2.8))
    FigureCanvasAgg(made)
    axes = made.add_axes((0, 0, 1, 1))
    columns = [["x1", "x2", "1"], ["", "", "", "1"], ["y"]]
    places = [
        [(column, (len(names) - 1) / 2 - row) for row in range(len(names))]
        for column, names in enumerate(columns)
    ]
    for column, matrix in enumerate(weights):
        for (to, start), weight in np.ndenumerate(matrix):
            (x0, y0), (x1, y1) = places[column][start], places[column + 1][to]
            width = 2.5 * abs(weight) / np.abs(matrix).max()
            axes.plot([x0, x1], [y0, y1], color="C0" if weight > 0 else "C3", linewidth=width, zorder=1)
    for names, points in zip(columns, places, strict=True):
        for name, (across, up) in zip(names, points, strict=True):
            kind = "s" if name == "1" else "o"
            axes.plot(across, up, kind, markersize=22, color="white", markeredgecolor="black", zorder=2)
            axes.text(across, up, name, ha="center", va="center", fontsize=9, zorder=3)
    axes.margins(0.12)
    axes.set_axis_off()
    made.savefig(out / "circuit.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="the folder of MNIST's files")
    parser.add_argument("--fashion-dir", type=Path, required=True, help="the folder of Fashion-MNIST's files")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    options = parser.parse_args()
    folders = {"mnist": options.data_dir, "fashion-mnist": options.fashion_dir}
    circuit(options.out)
    windows(options.out)
    spikes(folders, options.out, options.epochs)
    routes(folders, options.out, options.epochs)


if __name__ == "__main__":
    main()
