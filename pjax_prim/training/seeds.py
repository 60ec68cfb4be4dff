"""Several seeds of one configuration at once."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..data import open_stream
from ..errors import ArgumentError, NonFiniteError
from .config import TrainConfig
from .evaluate import Evaluator
from .state import TrainState, judged_by, judged_model, make_state
from .steps import make_step
from .task import Task

ONE_SEED = ("mesh", "patience", "track_best", "skip_non_finite")
"""Fields of a configuration that are for a run of one seed."""


@dataclass(frozen=True)
class SeedsResult:
    """What several seeds have come to.

    **Arguments:**

    - `rows`: for each evaluation its `batch`, and its figures with a number for each seed.
    - `models`: one model for each seed.
    - `seconds`: the time in training steps of all, without compiling and evaluating.
    """

    task: Task
    config: TrainConfig
    seeds: tuple[int, ...]
    rows: list[dict[str, Any]]
    models: list[Any]
    seconds: float

    def summary(self) -> dict[str, Any]:
        """Gives the mean of every figure of the last evaluation, and those of all seeds under `by_seed`.

        `deviation` is the standard deviation of the figure that says which evaluation is the best, and None
        for a single seed."""
        last = {name: values for name, values in self.rows[-1].items() if name != "batch"}
        judge = judged_by(self.config, self.task)
        judged = last.get(judge[1], []) if judge is not None else []
        return {
            "seeds": list(self.seeds),
            **{name: statistics.mean(values) for name, values in last.items()},
            "deviation": statistics.stdev(judged) if len(judged) > 1 else None,
            "by_seed": last,
            "batches": self.config.batches,
            "seconds": self.seconds,
        }


def train_seeds(
    task: Task,
    config: TrainConfig,
    seeds: Sequence[int],
    *,
    on_evaluation: Callable[[dict[str, Any]], None] | None = None,
) -> SeedsResult:
    """Trains one model for each seed, all in one step by `jax.vmap`: each as `train` would.

    Initial parameters, random numbers and the data of a task that asks for the seed are those of the seed.
    Nothing is saved. Worth it where a step is too small for the device; memory is that of all seeds.

    **Arguments:** `task`, `config`, whose own seed is not used; `seeds`, numbers of at least 0 that differ;
    `on_evaluation`, called with each row of the result.

    **Errors:** `ArgumentError` for seeds that are none, for a task without evaluations, and for `ONE_SEED`,
    fields that would have no effect; `NonFiniteError` where a value is not finite, which names the seed.
    """
    _check(task, config, seeds)
    config = replace(config, method=replace(config.method, chunk_steps=config.method.steps))
    configs = [replace(config, seed=seed) for seed in seeds]
    init = eqx.filter_jit(lambda key: make_state(config, task, key))
    states = [init(jax.random.key(seed)) for seed in seeds]
    _, static = eqx.partition(states[0], eqx.is_array)
    arrays = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(eqx.filter(s, eqx.is_array) for s in states))
    del states
    step = make_step(config, task)

    @jax.jit
    @jax.vmap
    def take(arrays: Any, batch: Any) -> Any:
        new, metrics = step(eqx.combine(arrays, static), batch)
        return eqx.filter(new, eqx.is_array), metrics["finite"]

    evaluator = Evaluator(task)
    rows: list[dict[str, Any]] = []
    seconds, compiled = 0.0, None
    for number, batch in enumerate(_batches(task, configs), 1):
        compiled = compiled or take.lower(arrays, batch).compile()
        began = time.perf_counter()
        arrays, finite = jax.block_until_ready(compiled(arrays, batch))
        seconds += time.perf_counter() - began
        if not all(finite):
            seed = seeds[int(np.argmin(finite))]
            raise NonFiniteError(f"batch {number}: a value of seed {seed} is not finite")
        if config.is_evaluated(number):
            figures = [
                evaluator(judged_model(task, state), state.model_state)
                for state in _each(arrays, static, len(seeds))
            ]
            row = {"batch": number, **{name: [each[name] for each in figures] for name in figures[0]}}
            rows.append(row)
            if on_evaluation is not None:
                on_evaluation(row)
    models = [judged_model(task, state) for state in _each(arrays, static, len(seeds))]
    return SeedsResult(task, config, tuple(seeds), rows, models, seconds)


def _check(task: Task, config: TrainConfig, seeds: Sequence[int]) -> None:
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ArgumentError(f"seeds: expected different numbers of at least 0, given {list(seeds)}")
    if not task.evaluate:
        raise ArgumentError(f"seeds: compares evaluations, and the task {task.name} has none")
    for name in ONE_SEED:
        if getattr(config, name) not in (None, False, 0):
            raise ArgumentError(f"{name}: only for a run of one seed, given with {len(seeds)} seeds")


def _batches(task: Task, configs: Sequence[TrainConfig]) -> Iterator[Any]:
    """Batches with one more leading axis, of the seeds."""
    streams = [open_stream(task.data(each.seed)) for each in configs]
    readers = [stream.read(stream.start, configs[0].batches) for stream in streams]
    for found in zip(*readers, strict=True):
        yield jax.tree.map(lambda *leaves: np.stack(leaves), *(batch for batch, _ in found))


def _each(arrays: TrainState, static: TrainState, count: int) -> Iterator[TrainState]:
    return (eqx.combine(jax.tree.map(lambda x, i=i: x[i], arrays), static) for i in range(count))
