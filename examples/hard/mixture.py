"""A mixture of 4 experts of which one is chosen: 784-128-20, MNIST and Fashion-MNIST together.

    pjax-prim train examples/hard/mixture.py --data-dir DIR --fashion-dir DIR

The gate sends each example to the expert with the largest score.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from common import classify, images, recipe, together
from jaxtyping import Array, Float, PRNGKeyArray

import pjax_prim as pjp
from pjax_prim.data import Dataset
from pjax_prim.training import Task, TrainConfig

BATCH_SIZE = 256


class Mixture(eqx.Module):
    """A hidden layer, experts of two layers each with a gate that chooses one, and an output layer."""

    hidden: eqx.nn.Linear
    gate: eqx.nn.Linear
    enter: eqx.nn.Linear
    leave: eqx.nn.Linear
    output: eqx.nn.Linear

    def __init__(
        self, inputs: int = 784, width: int = 128, classes: int = 20, experts: int = 4, *, key: PRNGKeyArray
    ):
        keys = jax.random.split(key, 5)

        def linear(n: int, m: int, key: PRNGKeyArray) -> eqx.nn.Linear:
            return eqx.nn.Linear(n, m, dtype=jnp.float32, key=key)

        self.hidden = linear(inputs, width, keys[0])
        self.gate = linear(width, experts, keys[1])
        self.enter, self.leave = (
            jax.vmap(lambda key: linear(width, width, key))(jax.random.split(k, experts)) for k in keys[2:4]
        )
        self.output = linear(width, classes, keys[4])

    def __call__(
        self, x: Float[Array, " inputs"], hard: Callable[[Array], Array] = pjp.one_hot_argmax
    ) -> Array:
        """A score for each class."""
        x = jax.nn.relu(self.hidden(x))
        inside = jax.nn.relu(jax.vmap(lambda expert: expert(x))(self.enter))
        outside = jax.vmap(lambda expert, inner: expert(inner))(self.leave, inside)
        return self.output(hard(self.gate(x)) @ outside)

    def route(self, x: Float[Array, " inputs"]) -> Array:
        """One-hot, the expert that an example is sent to."""
        return pjp.one_hot_argmax(self.gate(jax.nn.relu(self.hidden(x))))


def dataset(data_dir: Path | None, fashion_dir: Path | None) -> Dataset:
    """MNIST and Fashion-MNIST, together 20 classes."""
    return together(images("mnist", data_dir), images("fashion-mnist", fashion_dir))


def task(
    data_dir: Path | None = None,
    fashion_dir: Path | None = None,
    width: int = 128,
    experts: int = 4,
    batch_size: int = BATCH_SIZE,
) -> Task:
    """A hard mixture on MNIST and Fashion-MNIST together.

    Args:
        data_dir: the folder of MNIST's files.
        fashion_dir: the folder of Fashion-MNIST's files.
        width: of the hidden layer and of the experts' layers.
        experts: of which each example takes one.
        batch_size: examples in a batch.
    """
    return classify(dataset(data_dir, fashion_dir), Mixture, batch_size, width=width, experts=experts)


def train_config(solver: Any) -> TrainConfig:
    """How it is trained where no option says otherwise."""
    return recipe(solver, 0.004, 8, 120_000, BATCH_SIZE)
