"""One training step, a pure function of parameters and batch, for each solver."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Int, PyTree, Shaped

import pjax_prim as pjp

from .config import GRADIENT_SOLVERS, TrainConfig

Loss = Callable[[Any, Array, Array], Array]
State = tuple[Any, PyTree]
"""The model, and the optimiser's state (None for projections)."""

Step = Callable[[State, Array, Array], tuple[State, dict[str, Array]]]


def make_loss(config: TrainConfig) -> Loss:
    """`loss(model, x, labels)`: the loss of each label, as `pjp.solve` and `jax.grad` take it."""
    functions: dict[str, Callable[..., Array]] = {
        "cross_entropy": pjp.cross_entropy,
        "margin": pjp.margin_loss,
        "squared_error": pjp.squared_error,
    }
    function = functions[config.loss]
    settings = {} if config.lam is None else {"lam": config.lam}

    def loss(model: Any, x: Shaped[Array, "batch features"], labels: Int[Array, "batch ..."]) -> Array:
        return function(jax.vmap(model)(x), labels, **settings)

    return loss


def make_solver(config: TrainConfig) -> pjp.AbstractSolver:
    """The projection solver that `config` names, with the settings it gives."""
    makers: dict[str, Callable[..., pjp.AbstractSolver]] = {
        "ap": pjp.AlternatingProjections,
        "ar": pjp.AlternatingReflections,
        "dr": pjp.DouglasRachford,
        "dm": pjp.DifferenceMap,
        "cp": pjp.CyclicProjections,
        "cdr": pjp.CyclicDouglasRachford,
    }
    given = {name: getattr(config, name) for name in ("relaxation", "beta", "form")}
    return makers[config.solver](**{name: value for name, value in given.items() if value is not None})


def make_step(config: TrainConfig, model: Any) -> tuple[State, Step]:
    """The initial state and the step of `config.solver`.

    **Returns:** `(state, step)` with `step(state, x, labels) -> (state, metrics)`. `metrics` are
    scalars: `loss` (mean over the batch, before the step), `finite`, and for projections
    `gap`. Where a value is not finite the step leaves the state as it was. For use in
    `eqx.filter_jit`.
    """
    loss = make_loss(config)
    if config.solver in GRADIENT_SOLVERS:
        rate = config.learning_rate or GRADIENT_SOLVERS[config.solver]
        optimiser = {"adam": optax.adam, "sgd": optax.sgd}[config.solver](rate)
        state = model, optimiser.init(eqx.filter(model, eqx.is_inexact_array))
        return state, _keep_finite(_gradient_step(optimiser, loss, config.steps))
    return (model, None), _keep_finite(_projection_step(make_solver(config), loss, config.steps))


def non_finite_reason(config: TrainConfig, model: Any, x: np.ndarray, labels: np.ndarray) -> str:
    """In words, why the step from `model` on this batch met a value that is not finite.

    **Cost:** projections run the batch once more, to learn the node.
    """
    if config.solver in GRADIENT_SOLVERS:
        return "The loss, a gradient or an update is not finite."
    solver = make_solver(config)
    return pjp.solve(make_loss(config), model, x, labels, solver=solver, max_steps=config.steps).message


def _projection_step(solver: pjp.AbstractSolver, loss: Loss, steps: int) -> Step:
    def step(state: State, x: Array, labels: Array) -> tuple[State, dict[str, Array]]:
        model, _ = state
        before = jnp.mean(loss(model, x, labels))
        solution = pjp.solve(loss, model, x, labels, solver=solver, max_steps=steps, tol=None)
        finite = solution.result != pjp.RESULTS.nonfinite
        return (solution.params, None), {"loss": before, "gap": solution.stats["gap"], "finite": finite}

    return step


def _gradient_step(optimiser: optax.GradientTransformation, loss: Loss, steps: int) -> Step:
    def mean_loss(model: Any, x: Array, labels: Array) -> Array:
        return jnp.mean(loss(model, x, labels))

    def step(state: State, x: Array, labels: Array) -> tuple[State, dict[str, Array]]:
        before = mean_loss(state[0], x, labels)
        static = eqx.filter(state, eqx.is_array, inverse=True)

        def update(_: int, arrays: PyTree) -> PyTree:
            model, memory = eqx.combine(arrays, static)
            gradient = eqx.filter_grad(mean_loss)(model, x, labels)
            updates, memory = optimiser.update(gradient, memory)
            return eqx.filter((eqx.apply_updates(model, updates), memory), eqx.is_array)

        arrays = jax.lax.fori_loop(0, steps, update, eqx.filter(state, eqx.is_array))
        return eqx.combine(arrays, static), {"loss": before, "finite": jnp.array(True)}

    return step


def _keep_finite(step: Step) -> Step:
    def kept(state: State, x: Array, labels: Array) -> tuple[State, dict[str, Array]]:
        new, metrics = step(state, x, labels)
        finite = metrics["finite"] & _all_finite((new, metrics))
        chosen = jax.tree.map(lambda a, b: jnp.where(finite, a, b) if eqx.is_array(a) else a, new, state)
        return chosen, {**metrics, "finite": finite}

    return kept


def _all_finite(tree: PyTree) -> Bool[Array, ""]:
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))
