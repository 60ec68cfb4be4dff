"""Several seeds of one configuration at once."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import data
from ..data import Dataset
from ..errors import ArgumentError, NonFiniteError
from .config import TrainConfig
from .evaluate import accuracy
from .state import TrainState, make_state
from .steps import make_step

ONE_SEED = ("mesh", "patience", "average", "track_best")
"""Fields of a configuration that are for a run of one seed."""


@dataclass(frozen=True)
class SeedsResult:
    """What several seeds have come to.

    **Arguments:**

    - `rows`: of each evaluation `batch` and, a number for each seed, `train_accuracy`, `test_accuracy` and,
      where examples are held out, `validation_accuracy`.
    - `models`: one for each seed.
    - `seconds`: in training steps of all, without compiling and evaluating.
    """

    config: TrainConfig
    seeds: tuple[int, ...]
    rows: list[dict[str, Any]]
    models: list[Any]
    seconds: float

    def summary(self) -> dict[str, Any]:
        """Mean and standard deviation of the last test accuracies, and these."""
        last = self.rows[-1]["test_accuracy"]
        deviation = statistics.stdev(last) if len(last) > 1 else None
        return {
            "seeds": list(self.seeds),
            "test_accuracy": statistics.mean(last),
            "deviation": deviation,
            "test_accuracies": last,
            "batches": self.config.batches,
            "seconds": self.seconds,
        }


def train_seeds(
    config: TrainConfig,
    seeds: Sequence[int],
    *,
    on_evaluation: Callable[[dict[str, Any]], None] | None = None,
) -> SeedsResult:
    """Trains one network for each seed, all in one step by `jax.vmap`: each as `train` would.

    Initial parameters, the order of examples and dropout are those of the seed. Nothing is saved. Worth it
    where a step is too small for the device; memory is that of all seeds.

    **Arguments:** `config`, whose own seed is not used; `seeds`, numbers of at least 0 that differ;
    `on_evaluation`, called with each row of the result.

    **Errors:** `ArgumentError` for seeds that are none, and for `ONE_SEED`, fields that would have no effect;
    `NonFiniteError` where a value is not finite, which names the seed.
    """
    _check(config, seeds)
    config = replace(config, chunk_steps=config.steps)
    configs = [replace(config, seed=seed) for seed in seeds]
    dataset = config.load_data()
    states = [make_state(each, each.make_model(dataset)) for each in configs]
    _, static = eqx.partition(states[0], eqx.is_array)
    arrays = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(eqx.filter(s, eqx.is_array) for s in states))
    step = make_step(config)

    @jax.jit
    @jax.vmap
    def take(arrays: Any, x: Any, labels: Any) -> Any:
        new, metrics = step(eqx.combine(arrays, static), x, labels)
        return eqx.filter(new, eqx.is_array), metrics["finite"]

    compiled = take.lower(arrays, *_batches(configs, dataset, 0)).compile()
    rows, seconds = [], 0.0
    for number in range(1, config.batches + 1):
        batch = _batches(configs, dataset, number - 1)
        began = time.perf_counter()
        arrays, finite = jax.block_until_ready(compiled(arrays, *batch))
        seconds += time.perf_counter() - began
        if not all(finite):
            seed = seeds[int(np.argmin(finite))]
            raise NonFiniteError(f"batch {number}: a value of seed {seed} is not finite")
        if config.is_evaluated(number):
            row = {"batch": number, **_accuracies(_models(arrays, static, len(seeds)), dataset)}
            rows.append(row)
            if on_evaluation is not None:
                on_evaluation(row)
    return SeedsResult(config, tuple(seeds), rows, _models(arrays, static, len(seeds)), seconds)


def _check(config: TrainConfig, seeds: Sequence[int]) -> None:
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ArgumentError(f"seeds: expected different numbers of at least 0, given {list(seeds)}")
    for name in ONE_SEED:
        if getattr(config, name) not in (None, False):
            raise ArgumentError(f"{name}: only for a run of one seed, given with {len(seeds)} seeds")


def _batches(configs: Sequence[TrainConfig], dataset: Dataset, step: int) -> tuple[np.ndarray, np.ndarray]:
    chosen = [data.batch(dataset, each.batch_size, seed=each.seed, step=step) for each in configs]
    x, labels = zip(*chosen, strict=True)
    return np.stack(x), np.stack(labels)


def _models(arrays: TrainState, static: TrainState, count: int) -> list[Any]:
    return [eqx.combine(jax.tree.map(lambda x, i=i: x[i], arrays.model), static.model) for i in range(count)]


def _accuracies(models: Sequence[Any], dataset: Dataset) -> dict[str, list[float]]:
    parts = {"train": (dataset.train_x, dataset.train_y), "test": (dataset.test_x, dataset.test_y)}
    if dataset.validation_x is not None and dataset.validation_y is not None:
        parts["validation"] = dataset.validation_x, dataset.validation_y
    return {f"{name}_accuracy": [accuracy(model, *part) for model in models] for name, part in parts.items()}
