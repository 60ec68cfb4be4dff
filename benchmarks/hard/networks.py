"""The five networks of PolyStep's table (arXiv 2605.01928), from `examples/hard`, and how each is trained."""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from pjax_prim.data import Dataset

from .estimators import Hard, arctan, by_softmax, chooses, estimated, fast_sigmoid, straight_through

EXAMPLES = Path(__file__).parents[2] / "examples" / "hard"


def example(name: str) -> ModuleType:
    """A file of `examples/hard`, which import what they share as scripts do."""
    if str(EXAMPLES) not in sys.path:
        sys.path.insert(0, str(EXAMPLES))
    return importlib.import_module(name)


@dataclass(frozen=True)
class Row:
    """A network, its data, and its opponents.

    - `network`: its class in the file of its name.
    - `data`: the folders that its data set takes, in order.
    - `estimators`: what takes the place of the hard function, by the name of the method.
    - `soft`: a smooth function that is trained and judged in place of the hard one, or None.
    - `epochs`, `batch_size`, `rates`: the same for all methods; the rate is chosen for each.
    - `polystep`, `target`: accuracies in percent, PolyStep's and the best gradient's that the table has.
    """

    title: str
    network: str
    data: tuple[str, ...]
    estimators: dict[str, Hard]
    polystep: float
    target: float
    soft: Hard | None = None
    epochs: int = 12
    batch_size: int = 128
    rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3)

    @property
    def methods(self) -> tuple[str, ...]:
        """All of them, displacement first."""
        return ("displacement", *self.estimators, *([] if self.soft is None else ["soft"]), "gradient")

    def hard(self, method: str) -> dict[str, Hard]:
        """What a method gives the network in place of its own hard function."""
        if method == "soft":
            assert self.soft is not None
            return {"hard": self.soft}
        return {"hard": self.estimators[method]} if method in self.estimators else {}


def fires(potential: jax.Array) -> jax.Array:
    """The spikes of `examples/hard/spiking.py`."""
    return example("spiking").fires(potential)


CHOICE = {"softmax gradient": chooses(by_softmax), "identity gradient": chooses(lambda x, t: t)}
ROWS: dict[str, Row] = {
    "spiking": Row(
        "spiking, 784-128-10",
        "Spiking",
        ("mnist",),
        {
            "arctan surrogate": estimated(fires, arctan(1.0)),
            "fast sigmoid surrogate": estimated(fires, fast_sigmoid(1.0)),
        },
        polystep=93.4,
        target=97.8,
    ),
    "int8": Row(
        "8-bit weights, 784-128-128-10",
        "Int8",
        ("mnist",),
        {"straight-through": straight_through(jnp.round)},
        polystep=97.1,
        target=98.1,
    ),
    "attention": Row(
        "hard attention, 784-128-10, 8 keys",
        "Attention",
        ("fashion-mnist",),
        CHOICE,
        soft=jax.nn.softmax,
        polystep=86.8,
        target=89.1,
    ),
    "staircase": Row(
        "staircase, 784-128-128-10",
        "Staircase",
        ("mnist",),
        {"straight-through": straight_through(jnp.floor)},
        polystep=93.2,
        target=97.6,
        rates=(4e-3, 8e-3, 16e-3),
    ),
    "mixture": Row(
        "mixture of 4, 784-128-20",
        "Mixture",
        ("mnist", "fashion-mnist"),
        {"softmax gradient": CHOICE["softmax gradient"]},
        soft=jax.nn.softmax,
        polystep=90.7,
        target=97.0,
        epochs=8,
        batch_size=256,
        rates=(2e-3, 4e-3),
    ),
}


def load(name: str, folders: dict[str, Path]) -> Dataset:
    """The data set of a row."""
    return example(name).dataset(*(folders[data] for data in ROWS[name].data))


def network(name: str) -> Any:
    """The class of a row's network."""
    return getattr(example(name), ROWS[name].network)
