"""One training step, from state and batch to state, for each way that parameters move."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from ..displacement import value_and_displacement
from ..errors import ArgumentError
from ..finite import are_finite
from ..primitives._arguments import standard_promotion
from ..problem import Placement
from ..solving import RESULTS, solve
from .config import TrainConfig
from .optimisers import make_optimiser
from .state import TrainState
from .task import Mean, Task, TaskLoss, as_mean, rows_of

Step = Callable[[TrainState, Any], tuple[TrainState, dict[str, Array]]]


class Taken(NamedTuple):
    """What some steps on a batch have come to.

    - `trained`, `memory`: of the model and the optimiser; `solver`: what the next steps start from.
    - `finite`: whether the method met no other value; `figures`: for the row of the batch.
    - `report`: loss, model state and metrics before the steps, where the method has come by them.
    """

    trained: Any
    memory: PyTree
    solver: PyTree
    finite: Array
    figures: dict[str, Array]
    report: tuple[Array, Any, Mapping[str, Any]] | None


Method = Callable[[TrainState, Any, Any, Any, PRNGKeyArray], Taken]
"""What some steps make of a state, its trained arrays, all else of its model, a batch and its key."""


def make_step(
    config: TrainConfig,
    task: Task,
    start: int = 0,
    placement: Placement | None = None,
    gathering: Callable[[Any], Any] = lambda loss: loss,
) -> Step:
    """The step of `config.method`: one batch, or one chunk of it if it has several.

    A batch of more than `chunk_steps` steps is taken in chunks, with what is between them in
    `TrainState.solver`, so that a run can be saved and stopped in the middle. The chunks lie where they lie
    by the configuration alone, and so do the results.

    **Arguments:** `start`: the steps that are done on the batch; `state.step`. `placement`, of the solver's
    arrays on a mesh; `gathering(loss)`: the loss whose direction is taken, with parameters gathered that are
    divided.

    **Returns:** `step(state, batch) -> (state, metrics)`. `metrics` are numbers; of a finished batch `loss`
    (before it), those of the loss, for projections `gap`, `finite`: whether the batch counts, and `stop`. A
    batch that meets a value that is not finite leaves the parameters as they were; where that happens more
    than `config.skip_non_finite` times in a row, `stop` is true, and the state stays as it is from then on.
    Use it inside `jax.jit`.
    """
    method = config.method
    count = method.chunk(start)
    last = start + count == method.steps
    loss = TaskLoss(task, method.compute_dtype)
    if method.projects:
        take = _projections(config, task, loss, count, placement)
    else:
        take = _directions(config, task, gathering(loss), count)

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Array]]:
        trained, frozen = task.split(state.model)
        key = batch_key(state)
        taken = take(state, trained, frozen, batch, key)
        if not last:
            return _with(state, solver=taken.solver, step=state.step + count), {}
        report = taken.report
        if report is None:
            value, (new, metrics) = loss(trained, frozen, state.model_state, batch, key)
            report = value, new, metrics
        value, model_state, metrics = report
        means = {name: as_mean(x, batch).value for name, x in metrics.items()}
        row = {"loss": jnp.mean(value), **taken.figures, **means}
        judged = (taken.trained, taken.memory, model_state, row["loss"], taken.figures)
        finite = taken.finite & jnp.all(
            are_finite([jax.tree.leaves(eqx.filter(judged, eqx.is_inexact_array))])
        )
        return _finish(config, state, finite, row, taken, frozen, model_state)

    return step


def _finish(
    config: TrainConfig,
    state: TrainState,
    finite: Array,
    row: dict[str, Array],
    taken: Taken,
    frozen: Any,
    model_state: Any,
) -> tuple[TrainState, dict[str, Array]]:
    """The state after a batch that is finished, or left out."""
    halted = state.failed > config.skip_non_finite
    good = finite & ~halted
    failed = jnp.where(good, 0, jnp.where(halted, state.failed, state.failed + 1)).astype(state.failed.dtype)
    stop = failed > config.skip_non_finite
    averaged = state.averaged
    if averaged is not None:
        # At first over all batches so far alike, so that the initial parameters hardly count.
        decay = jnp.minimum(config.decay, (1 + state.batch) / (10 + state.batch))

        def averaged_with(old: Array, new: Array) -> Array:
            return (decay * old + (1 - decay) * new).astype(old.dtype)

        averaged = jax.tree.map(averaged_with, averaged, taken.trained)
    zero = jnp.zeros_like(state.step)
    done = _with(
        state,
        model=eqx.combine(taken.trained, frozen),
        model_state=model_state,
        memory=taken.memory,
        averaged=averaged,
        solver=None,
        step=zero,
    )
    unchanged = _with(state, solver=None, step=zero)
    kept = jax.tree.map(lambda a, b: jnp.where(good, a, b) if eqx.is_array(a) else a, done, unchanged)
    counted = _with(
        kept,
        batch=state.batch + (~stop).astype(state.batch.dtype),
        skipped=state.skipped + (~stop & ~good).astype(state.skipped.dtype),
        failed=failed,
    )
    return counted, {**row, "finite": good, "stop": stop}


def _with(state: TrainState, **fields: Any) -> TrainState:
    return TrainState(**{**vars(state), **fields})


def batch_key(state: TrainState) -> PRNGKeyArray:
    """The key of the state's batch."""
    return jax.random.fold_in(state.key, state.batch)


def non_finite_reason(config: TrainConfig, task: Task, state: TrainState, batch: Any) -> str:
    """In words, why the batch after `state` met a value that is not finite.

    **Cost:** projections run the batch once more, to learn the node.
    """
    if not config.method.projects:
        return "The loss, a direction or an update is not finite."
    trained, frozen = task.split(state.model)
    loss = TaskLoss(task, config.method.compute_dtype)
    return solve(
        loss.value, trained, frozen, state.model_state, batch, batch_key(state),
        solver=config.method.make_solver(), max_steps=config.method.steps, restrictions=task.restrictions,
    ).message  # fmt: skip


def _projections(
    config: TrainConfig, task: Task, loss: TaskLoss, steps: int, placement: Placement | None
) -> Method:
    solver = config.method.make_solver()

    def take(state: TrainState, trained: Any, frozen: Any, batch: Any, key: PRNGKeyArray) -> Taken:
        solution = solve(
            loss.value, trained, frozen, state.model_state, batch, key,
            solver=solver, max_steps=steps, state=state.solver, placement=placement,
            restrictions=task.restrictions,
        )  # fmt: skip
        results: Any = RESULTS
        finite = solution.result != results.nonfinite
        return Taken(solution.params, None, solution.state, finite, {"gap": solution.stats["gap"]}, None)

    return take


def _directions(config: TrainConfig, task: Task, loss: Callable[..., Any], steps: int) -> Method:
    optimiser = make_optimiser(config, task)
    direct = _in_parts(make_direction(config, loss), config.method.micro_batches or 1)

    def take(state: TrainState, trained: Any, frozen: Any, batch: Any, key: PRNGKeyArray) -> Taken:
        def updated(trained: Any, memory: Any) -> tuple[Any, Any, Any]:
            report, direction = direct(trained, frozen, state.model_state, batch, key)
            try:
                with standard_promotion():  # optax mixes numbers of several dtypes
                    updates, memory = optimiser.update(direction, memory, trained)
            except TypeError as error:
                raise ArgumentError(
                    "optimiser: expected one that takes updates, its state and parameters alone, "
                    f"given one whose update fails without more ({error})"
                ) from error
            return task.restrict(eqx.apply_updates(trained, updates)), memory, report

        start, static = eqx.partition((trained, state.memory), eqx.is_array)

        def update(_: int, arrays: PyTree) -> PyTree:
            return eqx.filter(updated(*eqx.combine(arrays, static))[:2], eqx.is_array)

        if steps == 1 and state.solver is None:
            new, memory, (value, (model_state, metrics)) = updated(trained, state.memory)
            arrays = eqx.filter((new, memory), eqx.is_array)
            report = (value, model_state, metrics) if config.method.steps == 1 else None
            return Taken(new, memory, arrays, jnp.array(True), {}, report)
        arrays = start if state.solver is None else state.solver
        # XLA's CPU backend takes convolutions inside loops several times as long.
        arrays = update(0, arrays) if steps == 1 else jax.lax.fori_loop(0, steps, update, arrays)
        new, memory = eqx.combine(arrays, static)
        return Taken(new, memory, arrays, jnp.array(True), {}, None)

    return take


def make_direction(config: TrainConfig, loss: Callable[..., Any]) -> Callable[..., Any]:
    """`direct(trained, frozen, state, batch, key) -> ((value, (state, metrics)), direction)`."""

    def mean(trained: Any, *rest: Any) -> Any:
        value, aux = loss(trained, *rest)
        return jnp.mean(value), aux

    if config.method.solver == "displacement":
        return value_and_displacement(mean, lam=config.method.lam, has_aux=True)
    found: Callable[..., Any] = eqx.filter_value_and_grad(mean, has_aux=True)
    return found


def _in_parts(direct: Callable[..., Any], parts: int) -> Callable[..., Any]:
    """`direct` on parts of the batch, one after the other: mean values and directions, metrics over all of
    them.

    Each part has every so many-th row, so that a batch that is divided over devices stays where it is.
    """
    if parts == 1:
        return direct

    def in_parts(trained: Any, frozen: Any, model_state: Any, batch: Any, key: PRNGKeyArray) -> Any:
        rows = rows_of(batch)
        if rows % parts:
            raise ArgumentError(f"micro_batches: {parts} do not divide a batch of {rows} examples")
        pieces, whole = eqx.partition(batch, lambda x: eqx.is_array(x) and x.ndim > 0)
        pieces = jax.tree.map(lambda x: x.reshape(rows // parts, parts, *x.shape[1:]).swapaxes(0, 1), pieces)
        zeros = jax.tree.map(jnp.zeros_like, trained)

        def add(carry: Any, given: Any) -> Any:
            total, model_state = carry
            piece, key = eqx.combine(given[0], whole), given[1]
            (value, (new, metrics)), direction = direct(trained, frozen, model_state, piece, key)
            means = {name: as_mean(x, piece) for name, x in metrics.items()}
            return (jax.tree.map(jnp.add, total, direction), new), (value, means)

        keys = jax.random.split(key, parts)
        (total, model_state), (values, means) = jax.lax.scan(add, (zeros, model_state), (pieces, keys))
        metrics = {name: Mean(jnp.sum(x.total), jnp.sum(x.weight)) for name, x in means.items()}
        return (jnp.mean(values), (model_state, metrics)), jax.tree.map(lambda x: x / parts, total)

    return in_parts
