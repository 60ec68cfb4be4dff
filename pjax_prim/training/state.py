"""Everything that a run carries from one step to the next."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .config import OPTAX_SOLVERS, TrainConfig


class Best(eqx.Module):
    """The parameters with the highest accuracy of all evaluations (the first of equals).

    On the examples held out for validation, or, where there are none, on the test examples.
    """

    params: Any
    accuracy: Float[Array, ""]


class TrainState(eqx.Module):
    """The state of a run; a step is a function from one to the next.

    Together with the configuration and the data it determines all that follows: batch number
    `batch` is a function of the seed and that number (`pjax_prim.data.batch`).

    - `model`: as the finished batches left it.
    - `memory`: the optimiser's state; None for projections.
    - `solver`: of an unfinished batch the solver's state (for adam and sgd the arrays of model
      and memory), None between batches.
    - `averaged`: an exponential moving average of the trained arrays, if asked for.
    - `best`: see `Best`, if asked for.
    - `key`: folded with `batch` it gives the batch's random numbers (dropout).
    - `batch`: finished batches, which is also the position in the data.
    - `step`: solver steps taken on the unfinished batch.
    """

    model: Any
    memory: PyTree
    solver: PyTree
    averaged: Any
    best: Best | None
    key: PRNGKeyArray
    batch: Int[Array, ""]
    step: Int[Array, ""]


def make_state(config: TrainConfig, model: Any) -> TrainState:
    """The state before the first batch."""
    trained = eqx.filter(model, eqx.is_inexact_array)
    optimiser = make_optimiser(config)
    return TrainState(
        model=model,
        memory=None if optimiser is None else optimiser.init(trained),
        solver=None,
        averaged=None if config.average is None else trained,
        best=Best(trained, jnp.array(-1.0, jnp.float32)) if config.track_best else None,
        key=jax.random.key(config.seed),
        batch=jnp.zeros((), jnp.int32),
        step=jnp.zeros((), jnp.int32),
    )


def make_optimiser(config: TrainConfig) -> optax.GradientTransformation | None:
    """The optimiser of `config.solver`; None for projections."""
    if config.solver not in OPTAX_SOLVERS:
        return None
    rate = config.learning_rate or OPTAX_SOLVERS[config.solver]
    return (optax.sgd if config.solver == "sgd" else optax.adam)(make_schedule(config, rate))


def make_schedule(config: TrainConfig, rate: float) -> optax.ScalarOrSchedule:
    """The learning rate of each update; a number where it is the same for all."""
    warmup, updates = (n * config.steps for n in (config.warmup or 0, config.batches))
    schedules = {
        "constant": optax.constant_schedule(rate),
        "cosine": optax.cosine_decay_schedule(rate, updates - warmup),
        "linear": optax.linear_schedule(rate, 0.0, updates - warmup),
    }
    after = schedules[config.schedule or "constant"]
    if not warmup:
        return after if config.changes_over_run else rate
    # The first update is not lost on a rate of zero.
    rising = optax.linear_schedule(rate / (warmup + 1), rate, warmup)
    return optax.join_schedules([rising, after], [warmup])


def judged_by(config: TrainConfig) -> str:
    """Which figure of an evaluation says which one is the best."""
    return "test_accuracy" if config.validation is None else "validation_accuracy"


def note_accuracy(state: TrainState, accuracy: float) -> TrainState:
    """The state after an evaluation of its model."""
    if state.best is None or not accuracy > float(state.best.accuracy):
        return state
    best = Best(eqx.filter(state.model, eqx.is_inexact_array), jnp.array(accuracy, jnp.float32))
    return eqx.tree_at(lambda s: s.best, state, best)


def restart_batch(state: TrainState) -> TrainState:
    """The state before its unfinished batch."""
    return eqx.tree_at(
        lambda s: (s.solver, s.step), state, (None, jnp.zeros((), jnp.int32)), is_leaf=lambda x: x is None
    )


def chosen_model(state: TrainState, which: str = "last") -> Any:
    """The model with the parameters `last`, `averaged` or `best`; those must be in the state."""
    trained, fixed = eqx.partition(state.model, eqx.is_inexact_array)
    if which == "averaged":
        trained = state.averaged
    elif which == "best":
        assert state.best is not None
        trained = state.best.params
    return eqx.combine(trained, fixed)
