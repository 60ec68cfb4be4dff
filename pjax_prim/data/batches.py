"""Batches as a function of seed and step, so that a resumed run needs no iterator state."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from ..errors import ArgumentError
from .dataset import Dataset


def batch_indices(examples: int, batch_size: int, *, seed: int, step: int) -> np.ndarray:
    """Which examples make batch `step`.

    The epochs, each a permutation of all examples drawn from `(seed, epoch)`, are laid end to
    end, and batch `step` is the next `batch_size` of that sequence. So every epoch sees each
    example exactly once and nothing is dropped: the tail of an epoch shares its batch with the
    head of the next.

    **Cost:** one permutation of the examples per epoch; the last ones are kept.

    **Errors:** `ArgumentError` for a size, seed or step out of range.
    """
    for name, value, least in (
        ("examples", examples, 1),
        ("batch_size", batch_size, 1),
        ("seed", seed, 0),
        ("step", step, 0),
    ):
        if value < least:
            raise ArgumentError(f"{name}: expected at least {least}, given {value}")
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, places = np.divmod(positions, examples)
    parts = [_permutation(examples, seed, int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)]
    return np.concatenate(parts)


def batch(dataset: Dataset, batch_size: int, *, seed: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of the training examples of batch `step` (see `batch_indices`)."""
    chosen = batch_indices(len(dataset.train_x), batch_size, seed=seed, step=step)
    return dataset.train_x[chosen], dataset.train_y[chosen]


def batches(
    read: Callable[[int], Any], start: int, stop: int, *, threads: int = 2, ahead: int = 4
) -> Iterator[Any]:
    """`read(step)` of the steps from `start` until before `stop`, in order, read ahead by threads.

    A pipeline of grain. What it gives depends on the step alone, so that a run goes on anywhere without the
    state of an iterator.

    **Arguments:** `read`, called by several threads at once; `ahead`, how many steps are ready at most.
    """
    import grain  # takes a second, and only training needs it

    steps = grain.MapDataset.range(start, stop).map(read)
    return iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)))


@lru_cache(maxsize=4)
def _permutation(examples: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(examples)
