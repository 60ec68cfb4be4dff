"""Spiking neurons with a hard threshold: 784-128-10, 15 steps, MNIST.

    pjax-prim train examples/hard/spiking.py --data-dir DIR

Two layers of leaky integrate-and-fire neurons. Potentials decay by 0.95 a step and add what comes in; a
neuron whose potential is at least 1 fires, and begins again at 0. The scores are how often the last layer
fires.
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

DECAY = 0.95
THRESHOLD = 1.0


def fires(potential: Array) -> Array:
    """1 for a neuron that fires."""
    return (potential >= THRESHOLD).astype(potential.dtype)


class Spiking(eqx.Module):
    """Two layers of spiking neurons that see the same input for some steps."""

    hidden: eqx.nn.Linear
    output: eqx.nn.Linear
    steps: int = eqx.field(static=True)

    def __init__(
        self, inputs: int = 784, width: int = 128, classes: int = 10, steps: int = 15, *, key: PRNGKeyArray
    ):
        self.hidden, self.output = layers((inputs, width, classes), jax.random.split(key))
        self.steps = steps

    def __call__(self, x: Float[Array, " inputs"], hard: Callable[[Array], Array] = fires) -> Array:
        """How often each output fires."""
        return self.spikes(x, hard)[1].sum(0)

    def spikes(self, x: Array, hard: Callable[[Array], Array] = fires) -> tuple[Array, Array]:
        """Which neurons fire at each step, in the hidden layer and in the output."""
        current = self.hidden(x)

        def step(potentials: Any, _: None) -> Any:
            hidden, output = potentials
            hidden = DECAY * hidden + current
            fired = hard(hidden)
            output = DECAY * output + self.output(fired)
            scored = hard(output)
            after = jnp.where(hidden >= THRESHOLD, 0, hidden), jnp.where(output >= THRESHOLD, 0, output)
            return after, (fired, scored)

        start = jnp.zeros_like(current), jnp.zeros_like(self.output.bias)
        return jax.lax.scan(step, start, None, length=self.steps)[1]


def dataset(data_dir: Path | None) -> Dataset:
    """MNIST, whose pixels are currents from 0 to 1."""
    return images("mnist", data_dir, centred=False)


def task(
    data_dir: Path | None = None, width: int = 128, steps: int = 15, batch_size: int = BATCH_SIZE
) -> Task:
    """Spiking neurons on MNIST.

    Args:
        data_dir: the folder of MNIST's files.
        width: hidden neurons.
        steps: of time.
        batch_size: examples in a batch.
    """
    return classify(dataset(data_dir), Spiking, batch_size, width=width, steps=steps)


def train_config(solver: Any) -> TrainConfig:
    """How it is trained where no option says otherwise."""
    return recipe(solver, 0.002, 12, 60_000, BATCH_SIZE)
