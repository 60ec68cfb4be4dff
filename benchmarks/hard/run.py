"""Training in one compiled loop, and the time of a step."""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import pjax_prim as pjp
from pjax_prim.data import Dataset

from .networks import ROWS, Row, example, network

HELD_OUT = 10_000
"""Training examples that learning rates are chosen on; in the end all are trained on."""
TUNING = 100
"""The first seed of those runs."""
DECAY = 0.1
AT_ONCE = 1000


def loss(name: str, method: str) -> Callable[..., Any]:
    """The mean loss of a network, its hard function as the method has it."""
    hard = ROWS[name].hard(method)
    each = example("common").loss
    return lambda model, batch: jnp.mean(each(lambda x: model(x, **hard), batch, None))


def direct(name: str, method: str) -> Callable[..., tuple[Any, Any]]:
    """The value and the direction of a method."""
    if method == "displacement":
        return pjp.value_and_displacement(loss(name, method))
    return eqx.filter_value_and_grad(loss(name, method))


def step_of(name: str, method: str, optimiser: Any) -> Callable[..., Any]:
    """One update: `step((model, memory), batch) -> (model, memory), loss`."""
    both = direct(name, method)

    def step(carry: Any, batch: Any) -> Any:
        model, memory = carry
        value, direction = both(model, batch)
        updates, memory = optimiser.update(direction, memory, model)
        return (eqx.apply_updates(model, updates), memory), value

    return step


class Trainer:
    """A row's network by one method, compiled once for all rates and seeds."""

    def __init__(self, name: str, method: str, dataset: Dataset, held_out: int, epochs: int | None = None):
        row = ROWS[name]
        order = np.random.default_rng(0).permutation(len(dataset.train_x))
        x, y = dataset.train_x[order], dataset.train_y[order]
        if held_out:
            train, test = (x[:-held_out], y[:-held_out]), (x[-held_out:], y[-held_out:])
        else:
            train, test = (x, y), (dataset.test_x, dataset.test_y)
        self.train, self.test = jax.tree.map(jnp.asarray, (train, test))
        self.name, self.row, self.dataset = name, row, dataset
        self.batches = len(self.train[0]) // row.batch_size
        self.method = method
        self.epochs = row.epochs if epochs is None else epochs
        self.steps = self.batches * self.epochs
        self._epoch = jax.jit(self._run_epoch)
        self._accuracy = jax.jit(self._measure)

    def _optimiser(self, rate: Any) -> Any:
        return optax.adamw(optax.cosine_decay_schedule(rate, self.steps), weight_decay=DECAY)

    def _run_epoch(self, carry: Any, key: Any, rate: Any, data: Any) -> Any:
        step = step_of(self.name, self.method, self._optimiser(rate))
        rows = jax.random.permutation(key, len(data[0]))[: self.batches * self.row.batch_size]

        def at(carry: Any, rows: Any) -> Any:
            return step(carry, jax.tree.map(lambda array: array[rows], data))

        return jax.lax.scan(at, carry, rows.reshape(self.batches, -1))

    def _measure(self, model: Any, data: Any) -> Any:
        hard = self.row.hard(self.method) if self.method == "soft" else {}
        right = jax.lax.map(lambda x: jnp.argmax(model(x[0], **hard)) == x[1], data, batch_size=AT_ONCE)
        return jnp.mean(right)

    def train_model(self, rate: float, seed: int) -> tuple[Any, float]:
        """The network after one training, and its mean loss over the last epoch."""
        initial = jax.random.key(seed)
        model = network(self.name)(self.dataset.features, classes=self.dataset.classes, key=initial)
        carry, values = (model, self._optimiser(rate).init(model)), jnp.zeros(0)
        for key in jax.random.split(jax.random.key(1000 + seed), self.epochs):
            carry, values = self._epoch(carry, key, jnp.float32(rate), self.train)
        return carry[0], float(jnp.mean(values))

    def run(self, rate: float, seed: int) -> dict[str, Any]:
        """One training; its accuracy on what is held out, or on the test set."""
        started = time.perf_counter()
        model, train_loss = self.train_model(rate, seed)
        accuracy = 100 * float(self._accuracy(model, self.test))
        seconds = time.perf_counter() - started
        found = {"rate": rate, "seed": seed, "accuracy": accuracy}
        return {**found, "train_loss": train_loss, "seconds": seconds}


def choose_rate(
    name: str,
    method: str,
    dataset: Dataset,
    runs: list[dict[str, Any]],
    seeds: int,
    say: Callable[[str], None],
) -> float:
    """The learning rate that is best on held-out training examples, by the mean of some runs for each.

    **Arguments:** `runs`, those that are there; it gets the others.
    """
    trainer = Trainer(name, method, dataset, HELD_OUT)
    for rate, seed in itertools.product(ROWS[name].rates, range(TUNING, TUNING + seeds)):
        if not any((run["rate"], run["seed"]) == (rate, seed) for run in runs):
            runs.append(trainer.run(rate, seed))
            say(f"{name}, {method}: rate {rate:g}: {runs[-1]['accuracy']:.2f}% of held-out examples")

    def mean(rate: float) -> float:
        return statistics.mean(run["accuracy"] for run in runs if run["rate"] == rate)

    return max(ROWS[name].rates, key=mean)


def step_times(name: str, methods: Sequence[str], dataset: Dataset, repeats: int = 31) -> dict[str, float]:
    """The milliseconds of a step of each method: medians of calls in turn, after three that do not count.

    A call is ten steps in one compiled loop, as a training runs them.
    """
    row: Row = ROWS[name]
    size, optimiser = row.batch_size, optax.adamw(1e-3, weight_decay=DECAY)
    batches = jax.tree.map(
        lambda array: jnp.asarray(array[: 10 * size]).reshape(10, size, *array.shape[1:]),
        (dataset.train_x, dataset.train_y),
    )
    model = network(name)(dataset.features, classes=dataset.classes, key=jax.random.key(0))
    carry = model, optimiser.init(model)
    calls = {}
    for method in methods:
        calls[method] = jax.jit(partial(jax.lax.scan, step_of(name, method, optimiser)))
    times: dict[str, list[float]] = {method: [] for method in methods}
    for turn in range(repeats + 3):
        for method, call in calls.items():
            started = time.perf_counter()
            jax.block_until_ready(call(carry, batches))
            if turn >= 3:
                times[method].append(100 * (time.perf_counter() - started))
    return {method: statistics.median(taken) for method, taken in times.items()}
