"""Entry points under every transformation and setting of JAX: what they give is what they give without.

One row for each entry point, one for each context. A new entry point, or a new context, is one more row.
"""

import contextlib
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import chex
import equinox as eqx
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

import pjax_prim as pjp


def network(
    params: Any, x: Array, labels: Array, *, activation: Callable[[Array], Array] = jax.nn.leaky_relu
) -> Array:
    """A layer with a bias, an elementwise function and a factor."""
    hidden = jax.nn.relu(x @ params["w"] + params["b"][None])
    return pjp.cross_entropy(activation(hidden) @ params["out"] * params["scale"][None], labels, lam=0.5)


def make_params(key: Array) -> dict[str, Array]:
    w, b, out = jax.random.split(key, 3)
    return {
        "w": jax.random.normal(w, (3, 4), jnp.float32),
        "b": jax.random.normal(b, (4,), jnp.float32),
        "out": jax.random.normal(out, (4, 3), jnp.float32),
        "scale": jnp.ones((3,), jnp.float32),
    }


def arguments() -> tuple[Any, ...]:
    """Fresh arrays, so that they may be donated."""
    x = jax.random.normal(jax.random.key(1), (6, 3), jnp.float32)
    return make_params(jax.random.key(0)), x, jnp.array([0, 2, 1, 0, 2, 1])


KEY = jax.random.key(2)


def solve(solver: pjp.AbstractSolver, fn: Callable[..., Any] = network) -> Callable[..., Any]:
    def run(params: Any, x: Array, labels: Array) -> Any:
        solution = pjp.solve(fn, params, x, labels, solver=solver, max_steps=4, tol=1e-6)
        return solution.params, solution.stats

    return run


def solve_starts(params: Any, x: Array, labels: Array) -> Any:
    found = pjp.solve_starts(
        network,
        make_params,
        x,
        labels,
        key=KEY,
        starts=3,
        solver=pjp.ExtrapolatedProjections(),
        max_steps=4,
        tol=1e-6,
    )
    return found.params


def gap(params: Any, x: Array, labels: Array) -> Any:
    return pjp.gap(network)(params, x, labels)


def displacement(params: Any, x: Array, labels: Array) -> Any:
    return pjp.displacement(network)(params, x, labels)


def finite_displacement(params: Any, x: Array, labels: Array) -> Any:
    return pjp.displacement(network, lam=0.1)(params, x, labels)


def value_and_displacement(params: Any, x: Array, labels: Array) -> Any:
    return pjp.value_and_displacement(network)(params, x, labels)


def displacement_step(params: Any, x: Array, labels: Array) -> Any:
    optimiser = optax.sgd(0.25)
    new, _, value = pjp.displacement_step(network, optimiser)(params, optimiser.init(params), x, labels)
    return new, value


def constraint_graph(params: Any, x: Array, labels: Array) -> Any:
    """Of a graph, how many constraints each node has."""
    graph = pjp.constraint_graph(network)(params, x, labels)
    assert "linear_0" in str(graph)
    return np.array([node.constraints for node in graph.nodes])


@dataclass(frozen=True)
class Entry:
    """A function of `arguments()`; `traces`, whether it may be called while tracing."""

    name: str
    run: Callable[..., Any]
    traces: bool = True

    def __str__(self) -> str:
        return self.name


ENTRIES = (
    Entry("solve-ap", solve(pjp.AlternatingProjections())),
    Entry("solve-curve", solve(pjp.AlternatingProjections(), partial(network, activation=jnp.tanh))),
    Entry("solve-dr", solve(pjp.DouglasRachford(relaxation=0.4))),
    Entry("solve-ep", solve(pjp.ExtrapolatedProjections())),
    Entry("solve-jp", solve(pjp.JointProjections(iterations=3))),
    Entry("solve-rrr", solve(pjp.ReflectReflectRelax())),
    Entry("solve-anderson", solve(pjp.Anderson(pjp.CyclicProjections()))),
    Entry("solve_starts", solve_starts, traces=False),
    Entry("gap", gap),
    Entry("displacement", displacement),
    Entry("displacement-finite", finite_displacement),
    Entry("value_and_displacement", value_and_displacement),
    Entry("displacement_step", displacement_step),
    Entry("constraint_graph", constraint_graph),
)

Context = Callable[[Callable[..., Any], tuple[Any, ...]], Any]


def inside(manager: Callable[[], Any]) -> Context:
    """A context that is a context manager."""

    def call(run: Callable[..., Any], given: tuple[Any, ...]) -> Any:
        with manager():
            return run(*given)

    return call


def jitted(run: Callable[..., Any], given: tuple[Any, ...]) -> Any:
    return jax.jit(run)(*given)


def donated(run: Callable[..., Any], given: tuple[Any, ...]) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Some donated buffers were not usable")
        return jax.jit(run, donate_argnums=0)(*given)


def mapped(run: Callable[..., Any], given: tuple[Any, ...]) -> Any:
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), given[0])
    found = eqx.filter_vmap(run, in_axes=(0, None, None))(stacked, *given[1:])
    return jax.tree.map(lambda x: x[1], found)


def scanned(run: Callable[..., Any], given: tuple[Any, ...]) -> Any:
    x = given[1][None]
    _, found = jax.lax.scan(lambda carry, x: (carry, run(given[0], x, given[2])), None, x)
    return jax.tree.map(lambda x: x[0], found)


def branched(run: Callable[..., Any], given: tuple[Any, ...]) -> Any:
    def other(*given: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, run(*given))

    return jax.jit(lambda flag: jax.lax.cond(flag, run, other, *given))(True)


def mesh_of(kind: AxisType) -> Mesh:
    return Mesh(np.array(jax.devices()[:2]), ("d",), axis_types=(kind,))


def sharded(check: bool) -> Context:
    def call(run: Callable[..., Any], given: tuple[Any, ...]) -> Any:
        whole = PartitionSpec()
        return jax.jit(
            jax.shard_map(run, mesh=mesh_of(AxisType.Auto), in_specs=whole, out_specs=whole, check_vma=check)
        )(*given)

    return call


def explicit(entered: bool) -> Context:
    """The examples divided over the axis of an explicit mesh."""

    def call(run: Callable[..., Any], given: tuple[Any, ...]) -> Any:
        mesh = mesh_of(AxisType.Explicit)
        rows = NamedSharding(mesh, PartitionSpec("d"))
        params, *batch = given
        params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
        batch = [jax.device_put(x, rows) for x in batch]
        with jax.set_mesh(mesh) if entered else contextlib.nullcontext():
            return jax.device_get(eqx.filter_jit(run)(params, *batch))

    return call


def exported(run: Callable[..., Any], given: tuple[Any, ...]) -> Any:
    program = jax.export.export(jax.jit(run))(*given)
    return jax.export.deserialize(program.serialize()).call(*given)


def in_two_threads(run: Callable[..., Any], given: tuple[Any, ...]) -> Any:
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(run(*given))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = found
    chex.assert_trees_all_equal(first, second)
    return first


@dataclass(frozen=True)
class Row:
    """A context; `traces`, whether it traces what it calls."""

    name: str
    call: Context
    traces: bool = False


CONTEXTS = (
    Row("jit", jitted, traces=True),
    Row("donated", donated, traces=True),
    Row("vmap", mapped, traces=True),
    Row("scan", scanned, traces=True),
    Row("cond", branched, traces=True),
    Row("shard_map", sharded(True), traces=True),
    Row("shard_map-unchecked", sharded(False), traces=True),
    Row("explicit", explicit(True), traces=True),
    Row("explicit-data", explicit(False), traces=True),
    Row("export", exported, traces=True),
    Row("threads", in_two_threads),
    Row("disable_jit", inside(jax.disable_jit)),
    Row("debug_nans", inside(lambda: jax.debug_nans(True))),
    Row("tracer_leaks", inside(jax.checking_leaks)),
    Row("rank_promotion", inside(lambda: jax.numpy_rank_promotion("raise"))),
    Row("dtype_promotion", inside(lambda: jax.numpy_dtype_promotion("strict"))),
    Row("transfer_guard", inside(lambda: jax.transfer_guard("disallow"))),
)

OPEN = {
    (name, "transfer_guard")
    for name in ("displacement", "displacement-finite", "value_and_displacement", "displacement_step")
}
"""Not compiled, a program transfers its numbers to the device, as that of `jax.grad` does."""

_OF_THE_LOOP = (
    "donated", "scan", "cond", "shard_map-unchecked", "explicit-data", "export", "tracer_leaks",
)  # fmt: skip

LIKE_OTHERS = {
    # The search along a curve is one function, which these trace and compile in different ways.
    "solve-curve": tuple(
        row.name
        for row in CONTEXTS
        if row.name not in ("vmap", "shard_map", "rank_promotion", "dtype_promotion", "debug_nans")
    ),
    # A loop that is not compiled is that of `solve-ep`, whose step is the smallest.
    "solve-ap": ("disable_jit",),
    # They share the loop of `solve-ap`; what is their own, a step, is in the other contexts.
    "solve-dr": (*_OF_THE_LOOP, "disable_jit"),
    "solve-ep": (*_OF_THE_LOOP, "explicit", "threads"),
    # All are mapped over their settings in solvers/test_settings.py. Reflections under `shard_map` are those
    # of `solve-dr`.
    "solve-rrr": (*_OF_THE_LOOP, "explicit", "threads", "disable_jit", "vmap", "shard_map"),
    "solve-anderson": (*_OF_THE_LOOP, "explicit", "threads", "disable_jit", "vmap"),
    "solve_starts": ("threads", "disable_jit", "tracer_leaks"),
    # Its own are a linearised function and two loops, which these compile.
    "solve-jp": tuple(row.name for row in CONTEXTS if row.name not in ("jit", "vmap", "dtype_promotion")),
    # `displacement_step` calls the second, which is the first and a value; finite steps have other pullbacks.
    **dict.fromkeys(
        ("displacement", "value_and_displacement", "displacement-finite"),
        ("donated", "scan", "cond", "shard_map-unchecked", "export", "disable_jit", "tracer_leaks"),
    ),
}
"""Of entry points the contexts that another one stands for, unless asked for."""

EXPECTED: dict[str, Any] = {}


def expected(entry: Entry) -> Any:
    if entry.name not in EXPECTED:
        EXPECTED[entry.name] = entry.run(*arguments())
    return EXPECTED[entry.name]


@pytest.mark.parametrize(
    ("entry", "context"),
    [
        pytest.param(
            entry,
            context,
            id=f"{entry}-{context.name}",
            marks=pytest.mark.slow if context.name in LIKE_OTHERS.get(entry.name, ()) else (),
        )
        for entry in ENTRIES
        for context in CONTEXTS
        if (entry.traces or not context.traces) and (entry.name, context.name) not in OPEN
    ],
)
def test_the_result_is_that_without(entry: Entry, context: Row) -> None:
    wanted = expected(entry)
    # With what the first call compiled: of a new function, too.
    found = context.call(entry.run, arguments())
    chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("run", [displacement, value_and_displacement], ids=lambda f: f.__name__)
def test_export_with_a_symbolic_number_of_examples(run: Callable[..., Any]) -> None:
    params, x, labels = arguments()
    (b,) = jax.export.symbolic_shape("b")
    shapes = jax.ShapeDtypeStruct((b, 3), x.dtype), jax.ShapeDtypeStruct((b,), labels.dtype)
    program = jax.export.export(jax.jit(run))(params, *shapes)
    for count in (2, 5):
        given = params, x[:count], labels[:count]
        chex.assert_trees_all_close(program.call(*given), jax.jit(run)(*given), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("run", [gap, solve(pjp.AlternatingProjections())], ids=["gap", "solve"])
def test_a_solver_takes_no_symbolic_number_of_examples(run: Callable[..., Any]) -> None:
    params, x, labels = arguments()
    (b,) = jax.export.symbolic_shape("b")
    shapes = jax.ShapeDtypeStruct((b, 3), x.dtype), jax.ShapeDtypeStruct((b,), labels.dtype)
    with pytest.raises(pjp.ArgumentError, match=r"args\[0\]: expected an array of known sizes, given .*b, 3"):
        jax.export.export(jax.jit(run))(params, *shapes)


@pytest.mark.parametrize("check", [True, False])
def test_examples_divided_over_a_mesh_add_up(check: bool) -> None:
    """Each device has the direction of its own examples; their mean is that of all.

    With checks, JAX adds up the cotangents of parameters that are the same on every device.
    """
    params, x, labels = arguments()
    rows, whole = PartitionSpec("d"), PartitionSpec()

    def mean(params: Any, x: Array, labels: Array) -> Any:
        return jax.lax.pmean(displacement(params, x, labels), "d")

    mapped = jax.shard_map(
        mean,
        mesh=mesh_of(AxisType.Auto),
        in_specs=(whole, rows, rows),
        out_specs=whole,
        check_vma=check,
    )
    found = jax.tree.map(lambda x: x / 2 if check else x, jax.jit(mapped)(params, x, labels))
    chex.assert_trees_all_close(found, displacement(params, x, labels), rtol=1e-4, atol=1e-6)


def test_a_first_call_transfers_nothing() -> None:
    """Labels are checked by a program, too, with nothing traced, compiled or kept before."""
    given = arguments()
    jax.clear_caches()
    with jax.transfer_guard("disallow"):
        found = solve(pjp.AlternatingProjections())(*given)
    chex.assert_trees_all_close(found, expected(ENTRIES[0]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("classes", [3, 4])
def test_known_labels_are_checked_while_something_is_traced(classes: int) -> None:
    """What a jitted function closes over is known; one of the labels is out of range."""
    params, x, _ = arguments()
    labels = jnp.array([0, 2, 1, 0, 2, classes - 1])

    def run(params: Any) -> Any:
        return gap(params, x, labels), solve(pjp.AlternatingProjections())(params, x, labels)

    if classes == 3:
        chex.assert_trees_all_close(jax.jit(run)(params), run(params), rtol=1e-4, atol=1e-5)
    else:
        with pytest.raises(pjp.ArgumentError, match="labels.*: expected one-hot vectors.* at index \\(5,\\)"):
            jax.jit(run)(params)


@pytest.mark.parametrize("divided", [False, True])
@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Explicit, jax.sharding.AxisType.Auto])
def test_starts_while_a_mesh_is_set(kind: Any, divided: bool) -> None:
    mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,))
    x, target = jax.random.normal(jax.random.key(0), (6, 4)), jnp.ones((6, 1))

    def run(x: Array, mesh: Any = None) -> Any:
        return pjp.solve_starts(
            lambda w, x: pjp.squared_error((x @ w)[:, None], target),
            lambda key: jax.random.normal(key, (4,)),
            x,
            key=jax.random.key(1),
            starts=4,
            max_steps=2,
            solver=pjp.AlternatingProjections(),
            mesh=mesh,
        ).params

    expected = run(x)
    with jax.set_mesh(mesh):
        found = run(jax.device_put(x, jax.NamedSharding(mesh, jax.P("data"))) if divided else x)
        chex.assert_trees_all_close(found, expected, rtol=1e-10)
        chex.assert_trees_all_close(run(x, mesh), expected, rtol=1e-10)
