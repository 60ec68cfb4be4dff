"""A layer with weights rounded to 8 bits: 784-128-128-10, MNIST.

    pjax-prim train examples/hard/int8.py --data-dir DIR

The weights and biases of the layer in the middle are rounded to multiples of 0.01 from -1.27 to 1.27.
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

SCALE = 0.01


class Int8(eqx.Module):
    """Three layers with relu; `jnp.round` of the second one's parameters."""

    first: eqx.nn.Linear
    middle: eqx.nn.Linear
    last: eqx.nn.Linear

    def __init__(self, inputs: int = 784, width: int = 128, classes: int = 10, *, key: PRNGKeyArray):
        sizes = inputs, width, width, classes
        self.first, self.middle, self.last = layers(sizes, jax.random.split(key, 3))

    def __call__(self, x: Float[Array, " inputs"], hard: Callable[[Array], Array] = jnp.round) -> Array:
        """A score for each class."""
        weight, bias = (
            hard(w / SCALE).clip(-127, 127) * SCALE for w in (self.middle.weight, self.middle.bias)
        )
        x = jax.nn.relu(self.first(x))
        x = jax.nn.relu(weight @ x + bias)
        return self.last(x)


def dataset(data_dir: Path | None) -> Dataset:
    """MNIST."""
    return images("mnist", data_dir)


def task(data_dir: Path | None = None, width: int = 128, batch_size: int = BATCH_SIZE) -> Task:
    """A layer of 8 bits on MNIST.

    Args:
        data_dir: the folder of MNIST's files.
        width: of both hidden layers.
        batch_size: examples in a batch.
    """
    return classify(dataset(data_dir), Int8, batch_size, width=width)


def train_config(solver: Any) -> TrainConfig:
    """How it is trained where no option says otherwise."""
    return recipe(solver, 0.004, 12, 60_000, BATCH_SIZE)
