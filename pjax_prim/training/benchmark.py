"""Step times, each beside an Adam step and a copy of the state that are timed in the same run."""

import math
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp

import pjax_prim as pjp

from ..data import open_stream
from ..errors import GraphError
from ..feasibility import FeasibilityProblem
from ..rules.convolution import Convolution
from ..rules.linear import Linear
from ..stepping import make_problem
from .methods import PROJECTION_SOLVERS
from .task import Task, TaskLoss

CASES: dict[str, pjp.AbstractSolver | None] = {
    "displacement": None,
    **{
        name if form == solver.kind.forms[0] else f"{name}-{form}": solver.kind(form=form)
        for name, solver in PROJECTION_SOLVERS.items()
        for form in solver.kind.forms
    },
}
"""Every solver by its name, in every form of its state."""

if TYPE_CHECKING:
    Case: TypeAlias = str
else:  # the command line reads its choices here
    Case = Literal[tuple(CASES)]
Call = Literal["keep", "give", "loop"]
LOOP = 10
"""Steps in a call of the kind "loop"."""


def case_of(task: Task, seed: int = 0) -> tuple[Any, Any, tuple[Any, ...]]:
    """`loss`, `trained` and `rest` of a task on its first batch: a case for `compare`."""
    key = jax.random.key(seed)
    model, state = eqx.filter_jit(task.make_model)(key)
    trained, frozen = task.split(model)
    stream = open_stream(task.data(seed))
    batch = jax.device_put(next(stream.read(stream.start, 1))[0])
    return TaskLoss(task).value, trained, (frozen, state, batch, key)


def compare(
    solver: pjp.AbstractSolver | None,
    loss: Any,
    network: Any,
    batch: tuple[Any, ...],
    repeats: int = 11,
    call: Call = "keep",
) -> dict[str, Any]:
    """Times one solver step beside an Adam step of the same `loss(network, *batch)`.

    No solver stands for Adam with `pjp.displacement` in the gradient's place.

    Everything is one jitted call that is waited for; the contestants take turns, and each figure is
    the median over the turns. The first calls do not count.

    **Arguments:** `call`, how both kinds of step are called: "keep" gives new arrays, "give" overwrites
    the state (`donate_argnums`), "loop" takes 10 steps in one call, as `solve` does, and counts a
    tenth of it; so does the copy in place.

    **Returns:** `step_ms`, with its gap; `adam_step_ms`, of the same network, batch and loss, and
    `ratio_to_adam`; `products_ms`, the matrix products and convolutions of either alone, and
    `ratio_to_products`, left out for a function without a constraint graph (hard comparisons);
    `floor_ms`, a jitted copy of the solver's state (each number read once and written once, to
    new memory), and `ratio_to_floor`; `in_place_floor_ms`, the same to the memory it was read
    from; `state_bytes`; `peak_bytes` and `adam_peak_bytes` of a step that overwrites its state,
    arguments included, by the compiler's account; `compile_s` and `adam_compile_s`, tracing included.
    """
    started = time.perf_counter()
    if solver is None:
        step, start = _adam_step(pjp.displacement(loss), network, *batch)
    else:
        step, start = _solver_step(solver, loss, network, *batch)
    timed_step = _compiled(step, start, call)
    compile_s = time.perf_counter() - started
    started = time.perf_counter()
    adam, adam_state = _adam_step(_gradient(loss), network, *batch)
    timed_adam = _compiled(adam, adam_state, call)
    adam_compile_s = time.perf_counter() - started
    peaks = [_peak_bytes(_compiled(f, first, "give")) for f, first in ((step, start), (adam, adam_state))]
    state = start if solver is None else start[0][0]
    state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    copy = jax.jit(lambda state: jax.tree.map(jnp.copy, state))
    in_place = _compiled(
        lambda state: jax.tree.map(_changed, state), state, "loop" if call == "loop" else "give"
    )

    timed: dict[str, tuple[Callable[[Any], Any], Any]] = {
        "step": (timed_step, start),
        "adam_step": (timed_adam, adam_state),
        "floor": (copy, jax.tree.map(jnp.copy, state)),
        "in_place_floor": (in_place, jax.tree.map(jnp.copy, state)),
    }
    products = _products(loss, network, *batch, needed=solver is not None)
    if products is not None:
        timed["products"] = products
    del state, start
    milliseconds: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(repeats + 2):
        for name, (function, argument) in timed.items():
            started = time.perf_counter()
            result = jax.block_until_ready(function(argument))
            if turn >= 2:
                steps = LOOP if call == "loop" and name in ("step", "adam_step", "in_place_floor") else 1
                milliseconds[name].append(1e3 * (time.perf_counter() - started) / steps)
            if name in ("step", "adam_step", "in_place_floor"):
                timed[name] = (function, result)  # its argument may be gone
            del argument, result
    medians = {f"{name}_ms": statistics.median(times) for name, times in milliseconds.items()}
    if products is not None:
        medians["ratio_to_products"] = medians["step_ms"] / medians["products_ms"]
    return {
        **medians,
        "ratio_to_adam": medians["step_ms"] / medians["adam_step_ms"],
        "ratio_to_floor": medians["step_ms"] / medians["floor_ms"],
        "ratio_to_in_place_floor": medians["step_ms"] / medians["in_place_floor_ms"],
        "state_bytes": state_bytes,
        "peak_bytes": peaks[0],
        "adam_peak_bytes": peaks[1],
        "compile_s": compile_s,
        "adam_compile_s": adam_compile_s,
    }


def step_bytes(case: Case, task: Task) -> tuple[int, int]:
    """Bytes of a solver's state, and of a step that overwrites it with all it needs, by the compiler's
    account. Compiles the step and runs nothing.
    """
    solver = CASES[case]
    if solver is None:
        raise ValueError(f"case={case!r}: keeps no solver's state")
    loss, trained, rest = case_of(task)
    _, arrays, first, step = _solver_parts(solver, loss, trained, *rest)
    held = jax.eval_shape(first, arrays)
    compiled = jax.jit(step, donate_argnums=0).lower(held, arrays).compile()
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(held[0])), _peak_bytes(compiled)


def _solver_parts(
    solver: pjp.AbstractSolver, loss: Any, model: Any, *batch: Any
) -> tuple[Any, Any, Callable[[Any], Any], Callable[[Any, Any], Any]]:
    """A problem's graph and arrays, `first(arrays) -> (state, summary)` and `step(first, arrays)` to the next
    ones and the squared gaps."""
    given = FeasibilityProblem.of(loss, model, *batch)
    graph, arrays = given.graph_for(solver), given.arrays

    def first(arrays: Any) -> Any:
        problem = make_problem(graph, solver, arrays)
        state = solver.init(problem, arrays[0])
        return state, solver.summary(problem, state)

    def step(held: Any, arrays: Any) -> Any:
        state, summary, squared = solver.advance(make_problem(graph, solver, arrays), *held)
        return (state, summary), squared

    return graph, arrays, first, step


def _solver_step(solver: pjp.AbstractSolver, loss: Any, model: Any, *batch: Any) -> tuple[Any, Any]:
    """A step of a solver as `solve` takes it, and what it starts from: state and summary, and gaps."""
    graph, arrays, first, step = _solver_parts(solver, loss, model, *batch)
    start = jax.jit(first)(arrays), jnp.zeros(len(graph.nodes))
    return lambda carry: step(carry[0], arrays), start


def _gradient(loss: Any) -> Any:
    return eqx.filter_grad(lambda model, *batch: jnp.mean(loss(model, *batch)))


def _adam_step(direction: Any, model: Any, *batch: Any) -> tuple[Any, Any]:
    """An Adam step with `direction(model, *batch)` for a gradient, and its first state."""
    import optax

    trained, fixed = eqx.partition(model, eqx.is_inexact_array)
    optimiser = optax.adam(1e-3)

    def step(state: Any) -> Any:
        trained, moments = state
        updates, moments = optimiser.update(direction(eqx.combine(trained, fixed), *batch), moments)
        return eqx.apply_updates(trained, updates), moments

    return step, jax.tree.map(jnp.copy, (trained, optimiser.init(trained)))


def _changed(a: Any) -> Any:
    """An array of which each number is another one."""
    return a * jnp.asarray(1.0001, a.dtype) if jnp.issubdtype(a.dtype, jnp.inexact) else a + 1


def _compiled(step: Callable[[Any], Any], start: Any, call: Call) -> Any:
    """A step, compiled for one way to call it."""
    if call == "keep":
        return jax.jit(step).lower(start).compile()

    def steps(state: Any) -> Any:
        count = LOOP if call == "loop" else 1
        return step(state) if count == 1 else jax.lax.fori_loop(0, count, lambda _, x: step(x), state)

    return jax.jit(steps, donate_argnums=0).lower(start).compile()


def _products(loss: Any, model: Any, *batch: Any, needed: bool) -> tuple[Any, Any] | None:
    """The products and convolutions that a step cannot do without, jitted, and their operands.

    Of each the value and what goes back to its operands, as for a gradient; nothing to data. None for a
    function without a constraint graph, unless it is `needed`.
    """
    try:
        prepared = FeasibilityProblem.of(loss, model, *batch)
    except GraphError:
        if needed:
            raise
        return None
    constants = prepared.graph.constants(prepared.data, prepared.captured)
    multiplying = [node for node in prepared.graph.nodes if isinstance(node.constraint, Linear | Convolution)]
    nodes = [(node.constraint, [operand.is_constant for operand in node.operands]) for node in multiplying]
    operands = [
        [
            operand.gather([], constants)
            if operand.is_constant
            else jnp.ones(operand.value.shape, operand.value.dtype)
            for operand in node.operands
        ]
        for node in multiplying
    ]

    def run(operands: Any) -> Any:
        results = []
        for (constraint, is_data), arrays in zip(nodes, operands, strict=True):
            moving = [x for x, data in zip(arrays, is_data, strict=True) if not data]

            def forward(*moving: Any, constraint: Any = constraint, arrays: Any = arrays,
                        is_data: Any = is_data) -> Any:  # fmt: skip
                rest = iter(moving)
                chosen = (x if data else next(rest) for x, data in zip(arrays, is_data, strict=True))
                return constraint.forward(tuple(chosen), ())

            value, back = jax.vjp(forward, *moving)
            results.append((value, back(value)))
        return results

    return jax.jit(run), operands


def _peak_bytes(compiled: Any) -> int:
    """Arguments, temporaries and results of a compiled call; donated memory counts once."""
    memory = compiled.memory_analysis()
    return int(
        memory.argument_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
    )
