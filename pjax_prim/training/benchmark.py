"""Step times, each beside an Adam step and a copy of the state that are timed in the same run."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import pjax_prim as pjp

from ..models import MLP
from ..solving import make_problem, problem_parts
from ..transform import prepare

CASES: dict[str, pjp.AbstractSolver] = {
    "ap": pjp.AlternatingProjections(),
    "ap-expanded": pjp.AlternatingProjections(form="expanded"),
    "ar": pjp.AlternatingReflections(),
    "dr": pjp.DouglasRachford(),
    "dm": pjp.DifferenceMap(),
    "cp": pjp.CyclicProjections(),
    "cp-expanded": pjp.CyclicProjections(form="expanded"),
    "cdr": pjp.CyclicDouglasRachford(),
}


def benchmark(
    case: str,
    hidden: Sequence[int] = (128, 128),
    batch_size: int = 256,
    *,
    in_size: int = 784,
    classes: int = 10,
    skip: bool = True,
    repeats: int = 11,
) -> dict[str, Any]:
    """Times one solver step of a classifier on random data.

    Everything is one jitted call that is waited for and gives new arrays; the contestants take
    turns, and each figure is the median over the turns. The first calls do not count.

    **Arguments:** `case`, a key of `CASES`; the network's `hidden` widths, `in_size`, `classes` and
    whether its output layer reads all hidden layers (`skip`); `batch_size`; `repeats` of each.

    **Returns:** `step_ms`; `adam_step_ms`, of the same network, batch and loss, and `ratio_to_adam`;
    `floor_ms`, a jitted copy of the solver's state (each number read once and written once, to
    new memory), and `ratio_to_floor`; `in_place_floor_ms`, the same to the memory it was read
    from; `state_bytes`; `peak_bytes` of the step and of Adam's, arguments and results included, by
    the compiler's account; `compile_s`, tracing included.
    """
    keys = jax.random.split(jax.random.key(0), 3)
    model = MLP(in_size, classes, tuple(hidden), skip=skip, key=keys[0])
    x = jax.random.uniform(keys[1], (batch_size, in_size))
    labels = jax.random.randint(keys[2], (batch_size,), 0, classes)

    def loss(model: Any, x: Any, labels: Any) -> Any:
        return pjp.cross_entropy(jax.vmap(model)(x), labels)

    started = time.perf_counter()
    step, state = _solver_step(CASES[case], loss, model, x, labels)
    step_compiled = step.lower(state).compile()
    compile_s = time.perf_counter() - started
    adam, adam_state = _adam_step(loss, model, x, labels)
    adam_compiled = adam.lower(adam_state).compile()
    copy = jax.jit(lambda state: jax.tree.map(jnp.copy, state))
    in_place = jax.jit(lambda state: jax.tree.map(lambda a: a * 1.0001, state), donate_argnums=0)

    timed: dict[str, tuple[Callable[[Any], Any], Any]] = {
        "step": (step_compiled, state),
        "adam_step": (adam_compiled, adam_state),
        "floor": (copy, state),
        "in_place_floor": (in_place, jax.tree.map(jnp.copy, state)),
    }
    milliseconds: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(repeats + 2):
        for name, (function, argument) in timed.items():
            started = time.perf_counter()
            result = jax.block_until_ready(function(argument))
            if turn >= 2:
                milliseconds[name].append(1e3 * (time.perf_counter() - started))
            if name == "in_place_floor":
                timed[name] = (function, result)  # its argument is gone
            del argument, result
    medians = {f"{name}_ms": statistics.median(times) for name, times in milliseconds.items()}
    return {
        **medians,
        "ratio_to_adam": medians["step_ms"] / medians["adam_step_ms"],
        "ratio_to_floor": medians["step_ms"] / medians["floor_ms"],
        "ratio_to_in_place_floor": medians["step_ms"] / medians["in_place_floor_ms"],
        "state_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
        "peak_bytes": _peak_bytes(step_compiled),
        "adam_peak_bytes": _peak_bytes(adam_compiled),
        "compile_s": compile_s,
    }


def _solver_step(solver: pjp.AbstractSolver, loss: Any, model: Any, *batch: Any) -> tuple[Any, Any]:
    """A jitted step of a solver as `solve` takes it, and its first state."""
    graph, arrays = problem_parts(prepare(loss, model, batch), solver)

    def first(arrays: Any) -> Any:
        return solver.init(make_problem(graph, solver.form, arrays), arrays[0])

    def step(state: Any) -> Any:
        return solver.step(make_problem(graph, solver.form, arrays), state)[0]

    return jax.jit(step), jax.jit(first)(arrays)


def _adam_step(loss: Any, model: Any, *batch: Any) -> tuple[Any, Any]:
    """A jitted Adam step, and its first state."""
    trained, fixed = eqx.partition(model, eqx.is_inexact_array)
    optimiser = optax.adam(1e-3)

    def step(state: Any) -> Any:
        trained, moments = state
        gradient = jax.grad(lambda model: jnp.mean(loss(eqx.combine(model, fixed), *batch)))(trained)
        updates, moments = optimiser.update(gradient, moments)
        return eqx.apply_updates(trained, updates), moments

    first = jax.tree.map(jnp.copy, (trained, optimiser.init(trained)))
    return jax.jit(step), first


def _peak_bytes(compiled: Any) -> int:
    """Arguments, temporaries and results of a compiled call; donated memory counts once."""
    memory = compiled.memory_analysis()
    return int(
        memory.argument_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
    )
