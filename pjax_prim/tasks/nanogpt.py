"""nanoGPT's small language model of characters, as its README trains it on a CPU."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from ..data import InOrder, Shuffled, load
from ..data.text import Windows
from ..errors import ArgumentError
from ..training import Method, Task, TrainConfig
from ..training.config import ONLY_FOR
from ..training.methods import Solver
from .classification import LABELS, Classifier, classification

RECIPE_FOR = ONLY_FOR["optimiser"]
RECIPE = Method(
    optimiser="adamw",
    optimiser_settings={"b2": 0.99, "weight_decay": 0.1},
    decay_matrices=True,
    learning_rate=1e-3,
    final_learning_rate=1e-4,
    schedule="cosine",
    warmup=100,
    clip=1.0,
)


def task(
    data_dir: Path | None = None,
    length: int = 64,
    held_out: float = 0.1,
    network: Classifier = Classifier(model="transformer", hidden=(128,) * 4, batch_size=12),
) -> Task:
    """nanoGPT's recipe for a CPU: a transformer of 4 blocks of width 128 with 4 heads, without dropout.

    Batches are windows that begin anywhere in the text, each window once in an epoch. `test` is the last part
    of the text, whole, and `train` as much of the rest, both cut into windows one after the other.

    Args:
        data_dir: the folder of the one .txt file.
        length: characters in an example.
        held_out: the share of the text, at its end, that is for testing.
    """
    if network.validation is not None:
        raise ArgumentError(f"validation: not for nanogpt, whose windows overlap, given {network.validation}")
    dataset = load("text", data_dir, length=length, held_out=held_out)
    made = classification(dataset, network)
    tokens = np.append(dataset.train_x.ravel(), dataset.train_y[-1, -1])
    count = min(len(dataset.train_x), len(dataset.test_x))
    part = np.linspace(0, len(dataset.train_x) - 1, count).astype(int)
    few = InOrder((dataset.train_x[part], dataset.train_y[part]), max(1, LABELS // length))
    return replace(
        made,
        name="nanoGPT's small recipe",
        train=lambda seed: Shuffled(Windows(tokens, length), network.batch_size, seed=seed),
        evaluate={**made.evaluate, "train": few},
        best="min test_loss",
    )


def train_config(solver: Solver) -> TrainConfig:
    """2000 batches; directions go to the recipe's optimiser."""
    method = replace(RECIPE, solver=solver) if solver in RECIPE_FOR else Method(solver=solver)
    return TrainConfig(method=method, batches=2000, eval_every=250)
