"""What the Boolean tasks share: bits, runs from many starts, and Adam with the straight-through estimator."""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import pjax_prim as pjp
from pjax_prim.models import ThresholdNetwork

COPIES = 2**20
"""How many copies of weights run at once, about: they should stay in the caches."""

SHARPNESS = 4
"""A score of 1, that of a support of as many inputs as there are, counts as a probability of 98%."""

LEARNING_RATES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)


@dataclass(frozen=True)
class Task:
    """Rows of +-1, (rows, in) and (rows, out), all of which a network of `sizes` is to reproduce.

    `test`, other rows, for tasks that ask for generalisation. The rest is what the command line overrides:
    at most `steps` for each start; the support `sigma`, one or one of each layer (the margin of a neuron is
    sqrt(inputs / sigma)); the solver's step `beta` and the rate `gamma` of its metric; the `rate` of sweeps.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    sizes: tuple[int, ...]
    test: tuple[np.ndarray, np.ndarray] | None = None
    steps: int = 10_000
    sigma: Sequence[float] = (3.0,)
    beta: float = 0.4
    gamma: float = 3e-3
    rate: float = 3.0

    @property
    def copies(self) -> int:
        """How many copies of weights a start has."""
        return len(self.x) * sum((n + 1) * m for n, m in zip(self.sizes, self.sizes[1:], strict=False))


def bits(numbers, count):
    """Numbers as rows of `count` bits, the lowest first, +-1."""
    digits = np.asarray(numbers)[:, None] >> np.arange(count) & 1
    return (2.0 * digits - 1).astype(np.float32)


def loss(model, x, y):
    return pjp.equality(jax.vmap(model)(x), y)


def outputs(model, x):
    return jax.vmap(model)(x)


def use_all_cores() -> None:
    """A device for each core, unless told otherwise: the arrays of one start are small, so divide starts."""
    config: Any = jax.config
    if config.jax_num_cpu_devices < 0:
        jax.config.update("jax_num_cpu_devices", os.cpu_count())


def data_mesh():
    """All devices, or None for one."""
    devices = len(jax.devices())
    return jax.make_mesh((devices,), ("data",)) if devices > 1 else None


def from_starts(task: Task, options, loss, network, predict: Callable, **method) -> dict[str, Any]:
    """The figures of a solver from many starts.

    **Arguments:** `loss(model, x, y)`; `network`, a class as `ThresholdNetwork`; `predict(model, x)`, bits;
    `method`, the solver and more for `pjp.solve_starts`.
    """
    x, y = jnp.asarray(task.x), jnp.asarray(task.y)
    sigma = tuple(task.sigma) if len(task.sigma) > 1 else task.sigma[0]
    found = pjp.solve_starts(
        loss,
        lambda key: network(task.sizes, sigma=sigma, key=key),
        x,
        y,
        key=jax.random.key(options.seed),
        starts=options.starts,
        max_steps=task.steps,
        is_solved=lambda model: jnp.all(predict(model, x) == y),
        lanes=max(COPIES // task.copies, len(jax.devices())),
        mesh=data_mesh(),
        **method,
    )
    steps, error = found.steps_per_solution
    return {
        "success_rate": found.success_rate,
        "iterations_per_solution": steps,
        "iterations_standard_error": error,
        "solutions_per_second": 1 / found.seconds_per_solution,
        "seconds": found.seconds,
        **generalisation(jax.vmap(predict, (0, None)), found.params, found.solved, task),
    }


def by_projections(task: Task, options) -> dict[str, Any]:
    solver = pjp.ReflectReflectRelax(beta=task.beta, gamma=task.gamma, known=options.known)
    return from_starts(task, options, loss, ThresholdNetwork, outputs, solver=solver)


class ScoreNetwork(ThresholdNetwork):
    """The same network, giving what its output neurons compare with zero, for weights of unit size."""

    def __call__(self, x):
        *hidden, output = self.weights
        for w, sigma in zip(hidden, self.sigma, strict=False):
            x = pjp.threshold_dot(w, jnp.append(x, 1), sigma)
        return output @ jnp.append(x, 1) / np.sqrt(output.shape[1])


def by_sweeps(task: Task, options) -> dict[str, Any]:
    """Extrapolated projections from the losses back: no optimiser, and weights of fixed norm."""

    def binary(model, x, y):
        return pjp.binary_cross_entropy(SHARPNESS * outputs(model, x), (y + 1) / 2)

    def predict(model, x):
        return jnp.where(outputs(model, x) >= 0, 1, -1)

    solver = pjp.ExtrapolatedProjections(rate=task.rate)
    how = {"solver": solver, "restrictions": pjp.FixedNorm()}
    return from_starts(task, options, binary, ScoreNetwork, predict, **how)


def generalisation(predict: Callable, models, solved, task: Task) -> dict[str, float]:
    """Over the starts that were solved, the share of test bits and of whole test rows that are right."""
    if task.test is None:
        return {}
    x, y = task.test
    right = np.asarray(predict(models, x) == y)[np.asarray(solved)]
    return {
        "test_bit_accuracy": float(right.mean()) if right.size else 0.0,
        "test_row_accuracy": float(right.all(-1).mean()) if right.size else 0.0,
    }


@jax.custom_jvp
def straight_through(p):
    """The sign, with the derivative of clip(p, -1, 1)."""
    return jnp.where(p >= 0, 1.0, -1.0)


@straight_through.defjvp
def _(primals, tangents):
    (p,), (tangent,) = primals, tangents
    return straight_through(p), jnp.where(jnp.abs(p) <= 1, tangent, 0)


def scores(weights, x):
    """What the output units compare with zero, one example; weights are of squared length about 1."""
    for i, w in enumerate(weights):
        x = w @ jnp.append(straight_through(x) if i else x, 1) / np.sqrt(w.shape[1])
    return x


def by_adam(task: Task, options, learning_rate: float, seed: int) -> dict[str, Any]:
    """Full batches and the hinge loss. A start is solved at the first step whose weights are exact."""
    x, y = jnp.asarray(task.x), jnp.asarray(task.y)
    optimiser = optax.adam(learning_rate)

    def hinge(weights):
        return jnp.mean(jax.nn.relu(1 - y * jax.vmap(scores, (None, 0))(weights, x)))

    def exact(weights):
        return jnp.all((jax.vmap(scores, (None, 0))(weights, x) >= 0) == (y > 0))

    def start(key):
        weights = ThresholdNetwork(task.sizes, key=key).weights

        def step(carry):
            weights, state, count, _ = carry
            updates, state = optimiser.update(jax.grad(hinge)(weights), state)
            weights = optax.apply_updates(weights, updates)
            return weights, state, count + 1, exact(weights)

        carry = (weights, optimiser.init(weights), 0, exact(weights))
        return jax.lax.while_loop(lambda c: ~c[3] & (c[2] < task.steps), step, carry)

    many = jax.jit(lambda keys: jax.lax.map(start, keys, batch_size=max(COPIES // task.copies, 1)))
    weights, _, steps, solved = many(jax.random.split(jax.random.key(seed), options.starts))
    solutions = int(solved.sum())
    predict = jax.vmap(lambda w, x: jnp.where(jax.vmap(scores, (None, 0))(w, x) >= 0, 1, -1), (0, None))
    return {
        "success_rate": float(solved.mean()),
        "iterations_per_solution": float(steps.sum()) / solutions if solutions else float("inf"),
        **generalisation(predict, weights, solved, task),
    }


def tuned_adam(task: Task, options) -> dict[str, Any]:
    """The learning rate that solves most of other starts, then the run."""

    def rank(rate):
        tried = by_adam(task, options, rate, options.seed + 1)
        return tried["success_rate"], -tried["iterations_per_solution"]

    best = max(LEARNING_RATES, key=rank)
    return {"learning_rate": best, **by_adam(task, options, best, options.seed)}


def main(
    make_task: Callable[[Any], Task],
    description: str | None,
    arguments: dict[str, dict[str, Any]],
    **defaults,
):
    """The command line of a task: `arguments` of its own, by name, and those of all."""
    parser = argparse.ArgumentParser(description=description)
    for name, settings in arguments.items():
        parser.add_argument(f"--{name}", **settings)
    parser.add_argument("--starts", type=int, default=100, help="random starts")
    # A task knows its own defaults of these.
    parser.add_argument("--steps", type=int, help="at most this many for each start")
    parser.add_argument("--sigma", type=float, nargs="+", help="support: the margin is sqrt(inputs / sigma)")
    parser.add_argument("--beta", type=float, help="step of the solver")
    parser.add_argument("--gamma", type=float, help="rate of the metric")
    parser.add_argument("--rate", type=float, help="of sweeps")
    parser.add_argument("--known", action="store_true", help="known labels inside the threshold constraint")
    parser.add_argument(
        "--sweeps", action="store_true", help="extrapolated projections in place of the solver"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--adam", action="store_true", help="run Adam with the straight-through estimator, too"
    )
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.set_defaults(**defaults)
    options = parser.parse_args()
    use_all_cores()
    task = make_task(options)
    given = {name: getattr(options, name) for name in ("steps", "sigma", "beta", "gamma", "rate")}
    task = replace(task, **{name: value for name, value in given.items() if value is not None})
    print(f"{task.name}: {'-'.join(map(str, task.sizes))}, {len(task.x)} rows, {options.starts} starts")
    result = (by_sweeps if options.sweeps else by_projections)(task, options)
    show("projections", result)
    if options.adam:
        adam = tuned_adam(task, options)
        show("Adam, straight-through", adam)
        result["adam"] = adam
    if options.json:
        print(json.dumps({"task": task.name, **finite(result)}))


def show(name: str, result: dict[str, Any]) -> None:
    print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in result.items()))


def finite(result: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: null."""
    return {
        key: finite(value) if isinstance(value, dict) else value if np.isfinite(value) else None
        for key, value in result.items()
    }
