"""Everything that a run carries from one step to the next."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .config import TrainConfig
from .optimisers import make_optimiser
from .task import Task, parse_best


class Best(eqx.Module):
    """The parameters of the best evaluation (the first of equals), and its figure with the sign that makes
    the larger one the better."""

    params: Any
    figure: Float[Array, ""]


class TrainState(eqx.Module):
    """The state of a run; a step is a function from one to the next.

    Together with the task, the configuration and the position in the data it determines all that follows.

    - `model`: the model as the finished batches left it; `model_state`, the state of a model that has one.
    - `memory`: the optimiser's state; None for projections.
    - `solver`: the solver's state of an unfinished batch (with an optimiser the arrays of parameters and
      memory), and None between batches.
    - `averaged`: a moving average of the trained arrays (`TrainConfig.average`), or None.
    - `best`: see `Best`, if asked for.
    - `key`: folded with `batch` it gives the random numbers of a batch.
    - `batch`: the number of finished batches.
    - `step`: the number of steps that were taken on the unfinished batch.
    - `skipped`: batches left out because a value was not finite; `failed`, so many of them in a row.
    """

    model: Any
    model_state: Any
    memory: PyTree
    solver: PyTree
    averaged: Any
    best: Best | None
    key: PRNGKeyArray
    batch: Int[Array, ""]
    step: Int[Array, ""]
    skipped: Int[Array, ""]
    failed: Int[Array, ""]


def make_state(config: TrainConfig, task: Task, key: PRNGKeyArray, start: Any = None) -> TrainState:
    """The state before the first batch. For use inside `jax.jit`.

    **Arguments:** `key`: the key of all random numbers; `start`: a model in place of the task's own.

    **Errors:** those of `make_optimiser`.
    """
    model, model_state = task.make_model(key)
    if start is not None:
        model = start
    trained, fixed = task.split(model)
    trained = task.restrict(trained)
    model = eqx.combine(trained, fixed)
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        model=model,
        model_state=model_state,
        memory=None if config.method.projects else make_optimiser(config, task).init(trained),
        solver=None,
        averaged=trained if config.decay else None,
        best=Best(trained, jnp.array(-jnp.inf, jnp.float32)) if config.track_best else None,
        key=key,
        batch=zero,
        step=zero,
        skipped=zero,
        failed=zero,
    )


def judged_model(task: Task, state: TrainState) -> Any:
    """The model that evaluations judge and a run ends with: with the moving average of its trained arrays
    where there is one."""
    if state.averaged is None:
        return state.model
    _, fixed = task.split(state.model)
    return eqx.combine(task.restrict(state.averaged), fixed)  # a mean of points of a set need not be in it


def judged_by(config: TrainConfig, task: Task) -> tuple[float, str] | None:
    """The sign and the name of the figure of an evaluation that says which one is the best; None without
    evaluations."""
    text = config.best or task.best
    if text is not None:
        return parse_best(text)
    return (-1.0, f"{next(iter(task.evaluate))}_loss") if task.evaluate else None


def note_best(state: TrainState, trained: Any, figure: float) -> TrainState:
    """The state after an evaluation of its trained arrays, whose figure is the larger the better.

    The arrays are copied: a step takes over the memory of those it is given.
    """
    if state.best is None or not figure > float(state.best.figure):
        return state
    params = jax.tree.map(lambda x: jax.jit(jnp.copy, out_shardings=x.sharding)(x), trained)
    old = state.best.figure
    best = Best(params, jax.jit(lambda x: x, out_shardings=old.sharding)(np.asarray(figure, old.dtype)))
    return eqx.tree_at(lambda s: s.best, state, best)


def restart_batch(state: TrainState) -> TrainState:
    """The state before its unfinished batch, with nothing said of failures."""

    def zero(x: Any) -> Any:
        return jax.jit(jnp.zeros_like, out_shardings=x.sharding)(x)

    return eqx.tree_at(
        lambda s: (s.solver, s.step, s.failed),
        state,
        (None, zero(state.step), zero(state.failed)),
        is_leaf=lambda x: x is None,
    )
