"""A staircase as activation, floor(5 sigmoid(x)) / 5: 784-128-128-10, MNIST.

pjax-prim train examples/hard/staircase.py --data-dir DIR
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from common import BATCH_SIZE, classify, images, layers, recipe
from jaxtyping import Array, Float, PRNGKeyArray

from pjax_prim.data import Dataset
from pjax_prim.training import Task, TrainConfig

LEVELS = 5


class Staircase(eqx.Module):
    """Three layers with a staircase between them."""

    layers: tuple[eqx.nn.Linear, ...]

    def __init__(self, inputs: int = 784, width: int = 128, classes: int = 10, *, key: PRNGKeyArray):
        self.layers = layers((inputs, width, width, classes), jax.random.split(key, 3))

    def __call__(self, x: Float[Array, " inputs"], hard: Callable[[Array], Array] = jnp.floor) -> Array:
        """A score for each class."""
        *hidden, last = self.layers
        for layer in hidden:
            x = hard(LEVELS * jax.nn.sigmoid(layer(x))) / LEVELS
        return last(x)


def dataset(data_dir: Path | None) -> Dataset:
    """MNIST."""
    return images("mnist", data_dir)


def task(data_dir: Path | None = None, width: int = 128, batch_size: int = BATCH_SIZE) -> Task:
    """Staircases on MNIST.

    Args:
        data_dir: the folder of MNIST's files.
        width: of both hidden layers.
        batch_size: examples in a batch.
    """
    return classify(dataset(data_dir), Staircase, batch_size, width=width)


def train_config(solver: Any) -> TrainConfig:
    """How it is trained where no option says otherwise."""
    return recipe(solver, 0.008, 12, 60_000, BATCH_SIZE)
