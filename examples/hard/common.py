"""What the tasks with hard functions share: images as rows, classes, the loss, and how they train."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

import pjax_prim as pjp
from pjax_prim.data import Dataset, InOrder, Shuffled, load
from pjax_prim.tasks.classification import classified
from pjax_prim.training import Method, Task, TrainConfig
from pjax_prim.training.config import ONLY_FOR

BATCH_SIZE = 128
ROWS = 1000
"""So many examples are evaluated at a time."""


def images(name: str, folder: Path | None, *, centred: bool = True) -> Dataset:
    """A data set of images: pixels from 0 to 1, or with mean 0 and variance 1 over the training set."""
    found = load(name, folder)
    if not centred:
        return found
    mean, spread = found.train_x.mean(), found.train_x.std()
    return replace(found, train_x=(found.train_x - mean) / spread, test_x=(found.test_x - mean) / spread)


def together(first: Dataset, second: Dataset) -> Dataset:
    """Two data sets as one, whose classes are those of the first, then those of the second."""
    return Dataset(
        f"{first.name} and {second.name}",
        np.concatenate([first.train_x, second.train_x]),
        np.concatenate([first.train_y, second.train_y + first.classes]),
        np.concatenate([first.test_x, second.test_x]),
        np.concatenate([first.test_y, second.test_y + first.classes]),
        first.classes + second.classes,
        first.image_shape,
    )


def loss(model: Callable[[Array], Array], batch: Any, key: PRNGKeyArray | None) -> Array:
    """The cross-entropy of each example."""
    del key
    x, labels = batch
    return pjp.cross_entropy(jax.vmap(model)(x), labels)


def layers(sizes: Sequence[int], keys: Sequence[PRNGKeyArray]) -> tuple[eqx.nn.Linear, ...]:
    """Linear maps from each size to the next, in float32."""
    return tuple(
        eqx.nn.Linear(n, m, dtype=jnp.float32, key=key)
        for (n, m), key in zip(pairwise(sizes), keys, strict=True)
    )


def classify(dataset: Dataset, network: Callable[..., Any], batch_size: int, **sizes: int) -> Task:
    """The task of a network that gives a score for each class."""
    return Task(
        model=lambda key: network(dataset.features, classes=dataset.classes, key=key, **sizes),
        loss=loss,
        train=lambda seed: Shuffled((dataset.train_x, dataset.train_y), batch_size, seed=seed),
        evaluate={"test": InOrder((dataset.test_x, dataset.test_y), ROWS)},
        metrics=classified,
        best="max test_accuracy",
    )


def recipe(solver: Any, learning_rate: float, epochs: int, examples: int, batch_size: int) -> TrainConfig:
    """AdamW along a cosine for directions; solvers as they are."""
    batches = epochs * (examples // batch_size)
    if solver not in ONLY_FOR["optimiser"]:
        return TrainConfig(method=Method(solver=solver), batches=batches, eval_every=1000)
    method = Method(
        solver=solver,
        optimiser="adamw",
        optimiser_settings={"weight_decay": 0.1},
        learning_rate=learning_rate,
        schedule="cosine",
    )
    return TrainConfig(method=method, batches=batches, eval_every=1000)
