"""What the tasks with classes share: a network of threshold neurons and the ways to train it."""

import argparse
import json
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import data_mesh, finite, loss, scores, show, straight_through

import pjax_prim as pjp
from pjax_prim.models import ThresholdNetwork


class SignNetwork(eqx.Module):
    """Threshold neurons, and an output layer whose largest score is the class.

    **Arguments:** `sizes` of the input, the hidden layers and the output; `binary`, whether weights are
    rounded to -1 and 1 where they are used; `sigma`, the support of `pjp.threshold_dot`.
    """

    weights: tuple[jax.Array, ...]
    binary: bool = eqx.field(static=True)
    sigma: float = eqx.field(static=True)

    def __init__(self, sizes, *, binary=False, sigma=3.0, key):
        keys = jax.random.split(key, len(sizes) - 1)
        shapes = [(m, n + 1) for n, m in zip(sizes, sizes[1:], strict=False)]
        self.weights = tuple(jax.random.normal(k, shape) for k, shape in zip(keys, shapes, strict=True))
        self.binary, self.sigma = binary, sigma

    def __call__(self, x):
        *hidden, output = [pjp.quantize(w, 2) if self.binary else w for w in self.weights]
        for w in hidden:
            x = pjp.threshold_dot(w, jnp.append(x, 1), self.sigma)
        return output @ jnp.append(x, 1) / np.sqrt(output.shape[1])

    def surrogate(self, x):
        """The same value, of which gradients are those of the straight-through estimator."""
        return scores([straight_through(w) if self.binary else w for w in self.weights], x)


def with_fixed_norms(network):
    """The nearest network whose threshold neurons have weights of squared length the number of inputs."""
    *hidden, output = network.weights
    weights = (*map(pjp.FixedNorm().project, hidden), output)
    return eqx.tree_at(lambda x: x.weights, network, weights)


def accuracy(network, x, y):
    # In parts, because all hidden values at once are much.
    return jnp.mean(jax.lax.map(lambda row: jnp.argmax(network(row[0])) == row[1], (x, y), batch_size=1000))


def by_displacement(network, x, y):
    def loss(model, x, y):
        return pjp.cross_entropy(jax.vmap(model)(x), y)

    # A small weight: the longer a row of hidden values, the weaker is the signal that passes the weights.
    return pjp.displacement(loss, weight=1.0)(network, x, y)


def by_straight_through(network, x, y):
    def loss(model):
        return jnp.mean(pjp.cross_entropy(jax.vmap(model.surrogate)(x), y))

    return eqx.filter_grad(loss)(network)


def by_sweeps(network, x, y, rate):
    """One step of a solver without an optimiser; hidden weights stay of squared length their number."""

    def loss(model, x, y):
        return pjp.cross_entropy(jax.vmap(model)(x), y)

    hidden = {f"weights.{i}": pjp.FixedNorm() for i in range(len(network.weights) - 1)}
    solver = pjp.ExtrapolatedProjections(rate=rate)
    return pjp.solve(loss, network, x, y, solver=solver, max_steps=1, restrictions=hidden).params


DIRECTIONS = {
    "displacement": by_displacement,
    "straight_through": by_straight_through,
    "sweeps": by_sweeps,
}


DEFAULT = ("displacement", "straight_through")


def train(direction: Callable, sizes, options, learning_rate: float, x, y, key):
    """Adam (or a solver's own steps) for some epochs.

    The rate goes to zero along a cosine. With `average` it stays, and the network is that of a moving average
    of the weights, of which the first ones are no part.
    """
    network = SignNetwork(sizes, binary=options.binary, key=key)
    batches = len(x) // options.batch_size
    if options.average:
        schedule, averaging = optax.constant_schedule(learning_rate), optax.ema(options.average)
    else:
        steps = options.epochs * batches
        schedule, averaging = optax.cosine_decay_schedule(learning_rate, steps), optax.identity()
    optimiser = optax.adam(schedule)

    def by_itself(network, count, x, labels):
        return by_sweeps(network, x, labels, schedule(count)), count + 1

    def by_adam(network, state, x, labels):
        updates, state = optimiser.update(direction(network, x, labels), state)
        network = eqx.apply_updates(network, updates)
        if direction is by_displacement or options.fixed_norm:
            network = with_fixed_norms(network)
        elif options.binary:  # the derivative ends at -1 and 1
            network = jax.tree.map(lambda w: jnp.clip(w, -1, 1), network)
        return network, state

    if direction is by_sweeps:
        move, state = by_itself, jnp.zeros((), jnp.int32)
    else:
        move, state = by_adam, optimiser.init(eqx.filter(network, eqx.is_array))

    def step(carry, rows):
        network, state, _, averages = carry
        network, state = move(network, state, x[rows], jax.nn.one_hot(y[rows], sizes[-1]))
        return (network, state, *averaging.update(network, averages)), None

    def epoch(carry, key):
        rows = jax.random.permutation(key, len(x))[: batches * options.batch_size]
        return jax.lax.scan(step, carry, rows.reshape(batches, -1))

    keys = jax.random.split(key, options.epochs)
    (_, _, averaged, _), _ = jax.lax.scan(epoch, (network, state, network, averaging.init(network)), keys)
    return averaged


def tune(direction: Callable, sizes, options, x, y) -> float:
    """The learning rate that is best on the last sixth of the training set, by training on the others."""
    if len(options.learning_rates) == 1:
        return options.learning_rates[0]
    cut = len(x) * 5 // 6
    keys = jax.random.split(jax.random.key(options.seed + 1), min(options.starts, 8))

    @jax.jit
    def validate(rate):
        def start(key):
            network = train(direction, sizes, options, rate, x[:cut], y[:cut], key)
            return accuracy(network, x[cut:], y[cut:])

        return jnp.mean(jax.lax.map(start, keys))

    return max(options.learning_rates, key=lambda rate: float(validate(rate)))


def by_optimiser(direction: Callable, sizes, options, data) -> dict[str, Any]:
    x, y, test_x, test_y = map(jnp.asarray, data)
    rate = tune(direction, sizes, options, x, y)
    keys = jax.random.split(jax.random.key(options.seed), options.starts)

    def start(key):
        network = train(direction, sizes, options, rate, x, y, key)
        return accuracy(network, x, y), accuracy(network, test_x, test_y)

    run = jax.jit(partial(jax.lax.map, start)).lower(keys).compile()
    opened = perf_counter()
    trained, tested = (np.asarray(a) for a in jax.block_until_ready(run(keys)))
    steps = np.full(len(keys), options.epochs * (len(x) // options.batch_size))
    return {"learning_rate": rate, **summary(trained, tested, steps, perf_counter() - opened)}


def score_accuracy(network, x, y):
    """The class is the one whose threshold neuron is nearest to the other side, or farthest on it."""
    return jnp.mean(jnp.argmax(jax.vmap(scores, (None, 0))(network.weights, x), -1) == y)


def by_projections(sizes, options, data) -> dict[str, Any]:
    """The solver alone, outputs being threshold neurons too, on `solver_rows` examples at once."""
    x, y, test_x, test_y = map(jnp.asarray, data)
    if options.solver_rows is not None:
        if not 1 <= options.solver_rows <= len(x):
            raise pjp.ArgumentError(
                f"solver-rows: expected at least 1 and at most the {len(x)} training examples, "
                f"given {options.solver_rows}"
            )
        rows = jax.random.choice(
            jax.random.key(options.seed + 1), len(x), (options.solver_rows,), replace=False
        )
        x, y = x[rows], y[rows]
    restriction = pjp.Levels((-1.0, 1.0)) if options.binary else pjp.FixedNorm()
    found = pjp.solve_starts(
        loss,
        lambda key: ThresholdNetwork(sizes, sigma=options.solver_sigma, key=key),
        x,
        2 * jax.nn.one_hot(y, sizes[-1]) - 1,
        key=jax.random.key(options.seed),
        starts=options.solver_starts,
        solver=pjp.ReflectReflectRelax(gamma=options.solver_gamma, restriction=restriction),
        max_steps=options.solver_steps,
        is_solved=lambda network: score_accuracy(network, x, y) == 1,
        lanes=len(jax.devices()),
        mesh=data_mesh(),
    )
    trained, tested = (
        np.asarray(jax.vmap(score_accuracy, (0, None, None))(found.params, *rows))
        for rows in ((x, y), (test_x, test_y))
    )
    return summary(trained, tested, found.steps, found.seconds)


def summary(trained, tested, steps, seconds: float) -> dict[str, float]:
    """A start counts as solved where all training examples are right."""
    solutions = int((trained == 1).sum())
    error = tested.std() / np.sqrt(len(tested) - 1) if len(tested) > 1 else np.inf
    return {
        "test_accuracy": float(tested.mean()),
        "test_standard_error": float(error),
        "train_accuracy": float(trained.mean()),
        "success_rate": solutions / len(trained),
        "iterations_per_solution": float(steps.sum()) / solutions if solutions else np.inf,
        "solutions_per_second": solutions / seconds,
        "seconds": seconds,
    }


def main(name: str, description: str | None, arguments: dict[str, dict[str, Any]], load: Callable):
    """The command line of a task.

    **Arguments:** `arguments` of its own and new settings for those of all; `load(options)`, the data set.
    """
    common = {
        "hidden": {"type": int, "nargs": "*", "help": "hidden layers"},
        "binary": {"action": "store_true", "help": "weights are rounded to -1 and 1"},
        "fixed-norm": {"action": "store_true", "help": "of hidden neurons, for the estimator, too"},
        "methods": {"nargs": "+", "choices": (*DIRECTIONS, "solver"), "default": (*DEFAULT, "solver")},
        "starts": {"type": int, "default": 1},
        "epochs": {"type": int, "default": 10},
        "average": {"type": float, "default": 0.0, "help": "decay of a mean of weights, at a constant rate"},
        "batch-size": {"type": int, "default": 100},
        "learning-rates": {"type": float, "nargs": "+", "help": "of several the best on held out examples"},
        "solver-rows": {"type": int, "help": "training examples for the solver; all if left out"},
        "solver-starts": {"type": int, "default": 1},
        "solver-steps": {"type": int, "default": 1000},
        "solver-sigma": {"type": float, "default": 3.0, "help": "support"},
        "solver-gamma": {"type": float, "default": 1e-3, "help": "rate of the metric"},
        "seed": {"type": int, "default": 0},
        "json": {"action": "store_true", "help": "end with one line of JSON"},
    }
    parser = argparse.ArgumentParser(description=description)
    for key in common | arguments:
        parser.add_argument(f"--{key}", **(common.get(key, {}) | arguments.get(key, {})))
    options = parser.parse_args()
    if not 0 <= options.average < 1:
        parser.error(f"--average: expected a number of at least 0 and below 1, given {options.average}")
    loaded = load(options)
    mean, spread = loaded.train_x.mean(), loaded.train_x.std()
    train_x, test_x = ((x - mean) / spread for x in (loaded.train_x, loaded.test_x))
    data = train_x, loaded.train_y, test_x, loaded.test_y
    sizes = (loaded.features, *options.hidden, loaded.classes)
    print(f"{name}: {'-'.join(map(str, sizes))}, {len(loaded.train_x)} examples, {options.starts} starts")
    results = {}
    for method in options.methods:
        if method == "solver":
            results[method] = by_projections(sizes, options, data)
        else:
            results[method] = by_optimiser(DIRECTIONS[method], sizes, options, data)
        show(method, results[method])
    if options.json:
        print(json.dumps({"task": name, **finite(results[options.methods[0]] | {"methods": results})}))
