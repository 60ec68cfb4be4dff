"""One training step, from state and batch to state, for each solver."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PRNGKeyArray, PyTree, Shaped

import pjax_prim as pjp

from ..problem import Placement
from .config import OPTAX_SOLVERS, TrainConfig
from .state import TrainState, make_optimiser

Loss = Callable[..., Array]
Step = Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, Array]]]


def make_loss(config: TrainConfig) -> Loss:
    """`loss(model, x, labels)`: the loss of each label, as `pjp.solve` and `jax.grad` take it.

    A key as fourth argument switches dropout on.
    """
    functions: dict[str, Callable[..., Array]] = {
        "cross_entropy": pjp.cross_entropy,
        "margin": pjp.margin_loss,
        "squared_error": pjp.squared_error,
    }
    function = functions[config.loss]
    settings = {} if config.lam is None else {"lam": config.lam}

    def loss(
        model: Any,
        x: Shaped[Array, "batch features"],
        labels: Int[Array, "batch ..."],
        key: PRNGKeyArray | None = None,
    ) -> Array:
        if key is None:
            logits = jax.vmap(model)(x)
        else:
            logits = jax.vmap(lambda row, key: model(row, key=key))(x, jax.random.split(key, len(x)))
        return function(logits, labels, **settings)

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
        "ep": pjp.ExtrapolatedProjections,
    }
    names = ["relaxation", "beta", "rate", "form", "metric", *(["lam"] if config.solver == "ep" else [])]
    given = {name: getattr(config, name) for name in names}
    metric = given.pop("metric") or "unit"
    wrappers = {"anderson": pjp.Anderson, "restarted": pjp.Restarted}
    solver = makers[config.solver](
        **{name: value for name, value in given.items() if value is not None},
        metric="unit" if config.acceleration else metric,
    )
    return wrappers[config.acceleration](solver, metric=metric) if config.acceleration else solver


def chunk(config: TrainConfig, start: int) -> int:
    """How many solver steps to take at once when `start` steps of a batch are done."""
    return min(config.chunk_steps, config.steps - start)


def make_step(config: TrainConfig, start: int = 0, placement: Placement | None = None) -> Step:
    """The step of `config.solver`: one batch, or one chunk of it if it has several.

    A batch of more than `chunk_steps` solver steps is taken in chunks, with the solver's state in
    `TrainState.solver` between them, so that a run can be saved and stopped in the middle. The
    chunks lie where they lie by the configuration alone, and so do the results.

    **Arguments:** `start`: the solver steps that are done on the batch; `state.step`. `placement`, of
    the solver's arrays on a mesh.

    **Returns:** `step(state, x, labels) -> (state, metrics)`. `metrics` are scalars: `finite`, and
    when the batch is finished `loss` (mean over the batch, before it) and, but for adam and sgd, `gap`.
    Where a value is not finite the model is left as it was. For use in `eqx.filter_jit`.
    """
    count = chunk(config, start)
    last = start + count == config.steps
    loss = make_loss(config)
    if config.solver in OPTAX_SOLVERS:
        solve = _optax_chunk(config, loss, count)
    else:
        solve = _projection_chunk(config, loss, count, placement)

    def step(state: TrainState, x: Array, labels: Array) -> tuple[TrainState, dict[str, Array]]:
        batch = (x, labels, batch_key(config, state))
        model, memory, solver, metrics = solve(state, batch)
        finite = metrics.pop("finite") & _all_finite((model, memory, metrics))
        if not last:
            new = eqx.tree_at(
                lambda s: (s.solver, s.step), state, (solver, state.step + count), is_leaf=_is_none
            )
            return new, {"finite": finite}
        before = jnp.mean(loss(state.model, *batch))
        if config.solver == "displacement":
            metrics["gap"] = pjp.gap(loss)(state.model, *batch)
        finite &= jnp.isfinite(before)
        done = TrainState(
            model=model,
            memory=memory,
            solver=None,
            averaged=_average(config, state, model),
            best=state.best,
            key=state.key,
            batch=state.batch + 1,
            step=jnp.zeros_like(state.step),
        )
        unchanged = eqx.tree_at(
            lambda s: (s.solver, s.step), state, (None, jnp.zeros_like(state.step)), is_leaf=_is_none
        )
        kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b) if eqx.is_array(a) else a, done, unchanged)
        return kept, {"loss": before, **metrics, "finite": finite}

    return step


def batch_key(config: TrainConfig, state: TrainState) -> PRNGKeyArray | None:
    """The key of the state's batch, where the model needs one."""
    return jax.random.fold_in(state.key, state.batch) if config.dropout else None


def non_finite_reason(config: TrainConfig, state: TrainState, x: np.ndarray, labels: np.ndarray) -> str:
    """In words, why the batch after `state` met a value that is not finite.

    **Cost:** projections run the batch once more, to learn the node.
    """
    if config.solver in OPTAX_SOLVERS:
        return "The loss, a direction or an update is not finite."
    batch = (x, labels, batch_key(config, state))
    solver = make_solver(config)
    return pjp.solve(make_loss(config), state.model, *batch, solver=solver, max_steps=config.steps).message


Batch = tuple[Array, Array, PRNGKeyArray | None]
Chunk = Callable[[TrainState, Batch], tuple[Any, PyTree, PyTree, dict[str, Array]]]
"""From state and batch to the model, the optimiser's state, what the next chunk starts from, metrics."""


def _projection_chunk(config: TrainConfig, loss: Loss, steps: int, placement: Placement | None) -> Chunk:
    solver = make_solver(config)

    def advance(state: TrainState, batch: Batch) -> tuple[Any, PyTree, PyTree, dict[str, Array]]:
        solution = pjp.solve(
            loss, state.model, *batch, solver=solver, max_steps=steps, state=state.solver, placement=placement
        )
        finite = solution.result != pjp.RESULTS.nonfinite
        return solution.params, None, solution.state, {"gap": solution.stats["gap"], "finite": finite}

    return advance


def _optax_chunk(config: TrainConfig, loss: Loss, steps: int) -> Chunk:
    optimiser = make_optimiser(config)
    assert optimiser is not None

    def mean_loss(model: Any, batch: Batch) -> Array:
        return jnp.mean(loss(model, *batch))

    direction = eqx.filter_grad(mean_loss)
    if config.solver == "displacement":
        lam = config.lam
        direction = pjp.displacement(mean_loss) if lam is None else pjp.displacement(mean_loss, lam=lam)

    def advance(state: TrainState, batch: Batch) -> tuple[Any, PyTree, PyTree, dict[str, Array]]:
        start, static = eqx.partition((state.model, state.memory), eqx.is_array)

        def update(_: int, arrays: PyTree) -> PyTree:
            model, memory = eqx.combine(arrays, static)
            updates, memory = optimiser.update(direction(model, batch), memory)
            return eqx.filter((eqx.apply_updates(model, updates), memory), eqx.is_array)

        arrays = start if state.solver is None else state.solver
        # XLA's CPU backend takes convolutions inside loops several times as long.
        arrays = update(0, arrays) if steps == 1 else jax.lax.fori_loop(0, steps, update, arrays)
        return *eqx.combine(arrays, static), arrays, {"finite": jnp.array(True)}

    return advance


def _average(config: TrainConfig, state: TrainState, model: Any) -> Any:
    if config.average is None:
        return None
    decay = config.average
    trained = eqx.filter(model, eqx.is_inexact_array)
    return jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.averaged, trained)


def _is_none(leaf: Any) -> bool:
    return leaf is None


def _all_finite(tree: PyTree) -> Bool[Array, ""]:
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))
