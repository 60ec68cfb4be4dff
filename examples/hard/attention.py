"""Hard attention over 8 keys: 784-128-10, Fashion-MNIST.

    pjax-prim train examples/hard/attention.py --data-dir DIR

Each example attends to the one key that fits it best, and the key decides how much of each value passes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from common import BATCH_SIZE, classify, images, layers, recipe
from jaxtyping import Array, Float, PRNGKeyArray

import pjax_prim as pjp
from pjax_prim.data import Dataset
from pjax_prim.training import Task, TrainConfig


class Attention(eqx.Module):
    """A hidden layer, values gated by the sigmoid of the chosen key, and an output layer."""

    hidden: eqx.nn.Linear
    keys: Float[Array, "keys width"]
    values: eqx.nn.Linear
    output: eqx.nn.Linear

    def __init__(
        self, inputs: int = 784, width: int = 128, classes: int = 10, count: int = 8, *, key: PRNGKeyArray
    ):
        parts = jax.random.split(key, 4)
        self.hidden, self.values, self.output = layers((inputs, width, width, classes), parts[:3])
        self.keys = 0.5 * jax.random.normal(parts[3], (count, width), jnp.float32)

    def __call__(
        self, x: Float[Array, " inputs"], hard: Callable[[Array], Array] = pjp.one_hot_argmax
    ) -> Array:
        """A score for each class."""
        x = jax.nn.relu(self.hidden(x))
        chosen = hard(self.keys @ x) @ self.keys
        return self.output(self.values(x) * jax.nn.sigmoid(chosen))


def dataset(data_dir: Path | None) -> Dataset:
    """Fashion-MNIST."""
    return images("fashion-mnist", data_dir)


def task(
    data_dir: Path | None = None, width: int = 128, count: int = 8, batch_size: int = BATCH_SIZE
) -> Task:
    """Hard attention on Fashion-MNIST.

    Args:
        data_dir: the folder of Fashion-MNIST's files.
        width: of the hidden layer.
        count: of keys.
        batch_size: examples in a batch.
    """
    return classify(dataset(data_dir), Attention, batch_size, width=width, count=count)


def train_config(solver: Any) -> TrainConfig:
    """How it is trained where no option says otherwise."""
    return recipe(solver, 0.004, 12, 60_000, BATCH_SIZE)
