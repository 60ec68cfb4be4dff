"""Loops: a scan is its body with one more axis, and solving it is solving it unrolled."""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import Primitive
from jaxtyping import Array

import pjax_prim as pjp
from pjax_prim._compat import open_jaxpr
from pjax_prim.feasibility import FeasibilityProblem
from pjax_prim.graph import ConstraintGraph
from pjax_prim.rules import registry

X = jax.random.normal(jax.random.key(0), (4, 5, 2))
PARAMS = {
    "w": jax.random.normal(jax.random.key(1), (3, 3)),
    "u": jax.random.normal(jax.random.key(2), (2, 3)),
    "b": jax.random.normal(jax.random.key(3), (3,)),
    "c": jnp.ones((5, 3)),
}
RECURRENT = {name: PARAMS[name] for name in "wub"}
START = jnp.zeros((5, 3))
Params = dict[str, Array]
Body = Callable[[Any, Any], tuple[Any, Any]]
Scan = Callable[..., tuple[Any, Any]]


def _slow(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow)


def python_loop(body: Body, init: Any, xs: Any, length: int | None = None, reverse: bool = False) -> Any:
    """`jax.lax.scan`, unrolled."""
    leaves = jax.tree.leaves(xs)
    count = len(leaves[0]) if leaves else length
    assert count is not None
    carry, ys = init, []
    order: Iterable[int] = range(count)
    for t in reversed(range(count)) if reverse else order:
        carry, y = body(carry, jax.tree.map(lambda x, t=t: x[t], xs))
        ys.append(y)
    ys = ys[::-1] if reverse else ys
    return carry, jax.tree.map(lambda *y: jnp.stack(y), *ys)


def cell(p: Params, h: Array, x: Array) -> Array:
    return jax.nn.relu(h @ p["w"] + x @ p["u"] + p["b"])


def recurrent(scan: Scan, p: Params, x: Array, **options: Any) -> tuple[Array, Array]:
    return scan(lambda h, x: (cell(p, h, x),) * 2, START, x, **options)


def with_key(scan: Scan, p: Params, x: Array) -> Array:
    """A key and a counter in the carry; a mask of dropout."""

    def body(carry: Any, x: Array) -> Any:
        h, key, count = carry
        key, new = jax.random.split(key)
        mask = jax.random.bernoulli(new, 0.5, h.shape)
        h = cell(p, jnp.where(mask, h, 0.0), x)
        return (h, key, count + 1), h * jnp.sin(count)

    return scan(body, (START, jax.random.key(7), jnp.zeros(())), x)[1]


def two_leaves(scan: Scan, p: Params, x: Array) -> Any:
    """Carries, xs and ys of many leaves; one carry never changes, one result is not used."""

    def body(carry: Params, xs: tuple[Array, Array]) -> Any:
        h, x, y = carry["h"], *xs
        new = jax.jit(cell)(p, h, x * y)
        return {"h": new, "c": carry["c"]}, (new + carry["c"], h, jnp.cumsum(h))

    return scan(body, {"h": START, "c": p["c"]}, (x, x[..., ::-1]))[1][:2]


def forward(scan: Scan, p: Params, x: Array) -> Any:
    """A carry that starts from a parameter, and one that is overwritten by data."""

    def body(carry: tuple[Array, Array], x: Array) -> Any:
        h, before = carry
        return (cell(p, h, before + x), x), h

    (h, _), ys = scan(body, (p["c"], X[1]), x)
    return h, ys


def in_a_map(scan: Scan, p: Params, x: Array) -> Array:
    """A loop in a loop without carry: the forward pass runs the inner ones side by side."""
    one = partial(scan, lambda h, x: (cell(p, h, x),) * 2, START[0])
    return scan(lambda _, x: (None, one(x)[1]), None, jnp.swapaxes(x, 0, 1))[1]


def in_a_loop(scan: Scan, p: Params, x: Array) -> Array:
    """The inner loop has a carry that knows nothing of the outer one, a delay of weights."""

    def inner(carry: tuple[Array, Array], c: Array) -> Any:
        h, before = carry
        return (jax.nn.relu(h * before), c), None

    def outer(h: Array, x: Array) -> Any:
        (h, _), _ = scan(inner, (cell(p, h, x), p["b"]), p["c"])
        return h, h

    return scan(outer, START, x, reverse=True)[1]


FORWARDS: dict[str, Callable[[Scan, Params, Array], Any]] = {
    "states": lambda scan, p, x: recurrent(scan, p, x)[1],
    "final": lambda scan, p, x: recurrent(scan, p, x)[0],
    "reverse": lambda scan, p, x: recurrent(scan, p, x, reverse=True),
    "length 1": lambda scan, p, x: recurrent(scan, p, x[:1]),
    "key and counter": with_key,
    "many leaves": two_leaves,
    "parameter and data": forward,
    "vmap": lambda scan, p, x: jax.vmap(
        lambda x, h: scan(lambda h, x: (cell(p, h, x),) * 2, h, x)[1], (1, 0)
    )(x, START),
    "in a map": in_a_map,
    "in a loop": in_a_loop,
    "vector": lambda scan, p, x: scan(lambda h, x: (cell(p, h, x),) * 2, START[0], x[:, 0]),
}


def losses(values: Any) -> list[Array]:
    return [pjp.squared_error(x, jnp.ones(x.shape)) for x in jax.tree.leaves(values)]


def kinds(graph: ConstraintGraph) -> Counter[str]:
    return Counter(node.kind for node in graph.nodes)


@pytest.mark.filterwarnings("ignore::pjax_prim.UnusedParameterWarning")
@pytest.mark.parametrize("name", FORWARDS)
def test_forward_pass(name: str) -> None:
    """What the nodes start from is what the function computes; nothing is out of place."""

    def fn(p: Params, x: Array) -> list[Array]:
        return losses(FORWARDS[name](lax.scan, p, x))

    given = FeasibilityProblem.of(fn, PARAMS, X)
    graph, problem = given.graph, given.numbers(form="expanded")
    produced = problem.outputs(jax.tree.leaves(PARAMS))
    for index, node in enumerate(graph.nodes):
        if node.constraint is not None and node.output is not None:
            operands = problem.gather(index, produced.__getitem__)
            expected = node.constraint.forward(operands, problem.constant_operands(index))
            chex.assert_trees_all_close(produced[index], expected, rtol=1e-12, atol=1e-12)
    results = jax.tree.leaves(FORWARDS[name](python_loop, PARAMS, X))
    for loss, result in zip(graph.losses, results, strict=True):
        (operand,) = problem.gather(loss, produced.__getitem__)
        np.testing.assert_allclose(operand, result, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore::pjax_prim.UnusedParameterWarning")
@pytest.mark.parametrize(
    "name", [name if name in ("many leaves", "in a map", "in a loop") else _slow(name) for name in FORWARDS]
)
def test_what_reaches_the_losses_takes_one_pass(name: str) -> None:
    """It is what the function computes, with as many matrix products, and so is its derivative."""

    def fn(p: Params, x: Array) -> list[Array]:
        return losses(FORWARDS[name](lax.scan, p, x))

    problem = FeasibilityProblem.of(fn, PARAMS, X).numbers(form="consensus")
    leaves = jax.tree.leaves(PARAMS)
    results = jax.tree.leaves(FORWARDS[name](python_loop, PARAMS, X))
    for (operand,), result in zip(problem.reached(leaves), results, strict=True):
        np.testing.assert_allclose(operand, result, rtol=1e-12, atol=1e-12)
    programs = [jax.make_jaxpr(f)(a) for f, a in ((problem.reached, leaves), (lambda p: fn(p, X), PARAMS))]
    assert products(programs[0]) == products(programs[1])


def products(program: Any) -> int:
    """How many matrix products a jaxpr has, with what it calls; the body of a loop counts once."""
    jaxpr, _ = open_jaxpr(program)
    found = 0
    for equation in jaxpr.eqns:
        inner = [x for x in equation.params.values() if hasattr(x, "eqns") or hasattr(x, "jaxpr")]
        found += (equation.primitive is lax.dot_general_p) + sum(map(products, inner))
    return found


@pytest.mark.filterwarnings("ignore::pjax_prim.UnusedParameterWarning")
@pytest.mark.parametrize("name", ["reverse", *map(_slow, ("key and counter", "in a map", "vector"))])
def test_the_iterates_are_those_of_the_unrolled_loop(name: str) -> None:
    """For alternating projections: the constraints are the same, and so is their colouring."""

    def step(scan: Scan) -> Any:
        def fn(p: Params, x: Array) -> list[Array]:
            return losses(FORWARDS[name](scan, p, x))

        assert FeasibilityProblem.of(fn, PARAMS, X).graph.two_coloured.identities == 0
        return pjp.solve(fn, PARAMS, X, solver=pjp.AlternatingProjections(), max_steps=20)

    together, unrolled = step(lax.scan), step(python_loop)
    chex.assert_trees_all_close(together.params, unrolled.params, rtol=0, atol=1e-10)
    np.testing.assert_allclose(together.stats["gap"], unrolled.stats["gap"], rtol=1e-10)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), together.params, PARAMS)
    assert all(moved[key] > 1e-3 for key in "wub")


@pytest.mark.filterwarnings("ignore::pjax_prim.UnusedParameterWarning")
def test_nodes_do_not_depend_on_the_length() -> None:
    texts = []
    for length in (2, 50):
        graph = pjp.constraint_graph(lambda p, x: losses(recurrent(lax.scan, p, x)[1]))(
            PARAMS, jnp.ones((length, 5, 2))
        )
        assert kinds(graph) == {"parameter": 3, "linear": 2, "sum_relu": 1, "loss": 1}
        assert len(graph.function.equations) < 30
        assert f"scan_0 x{length}" in str(graph)
        texts.append(len(str(graph).splitlines()))
    assert texts[0] == texts[1]


@pytest.mark.filterwarnings("ignore::pjax_prim.UnusedParameterWarning")
def test_products_of_all_iterations_are_one() -> None:
    graph = pjp.constraint_graph(lambda p, x: losses(FORWARDS["vmap"](lax.scan, p, x)))(PARAMS, X)
    product = next(node for node in graph.nodes if node.kind == "linear")
    assert product.output is not None and product.output.shape == (4, 5, 3)
    assert not any("transpose" in x.primitive.name for x in product.operands[0].path)
    assert product.multiplicity == (3, 20)
    assert [str(loop) for loop in product.loops] == ["scan_0 x4"]


def test_what_is_the_same_in_every_iteration_stays_outside() -> None:
    """An invariant carry and arithmetic on weights alone, also through a call."""

    def fn(p: Params, x: Array) -> list[Array]:
        def body(carry: tuple[Array, Array], x: Array) -> Any:
            h, w = carry
            return jax.jit(lambda h, w: (jax.nn.relu(h @ (w + p["w"]) + x @ p["u"]), w))(h, w), None

        (h, _), _ = lax.scan(body, (p["c"], jnp.square(3) * p["w"] + p["b"]), x)
        return losses(h)

    graph = FeasibilityProblem.of(fn, PARAMS, X).graph
    sums = [node for node in graph.nodes if node.kind == "sum"]
    assert all(not node.loops and node.constraints == 9 for node in sums) and sums


@pytest.mark.filterwarnings("ignore::pjax_prim.UnusedParameterWarning")
def test_length_zero() -> None:
    def fn(p: Params, x: Array) -> list[Array]:
        h, ys = lax.scan(lambda h, x: (cell(p, h, x),) * 2, p["c"], x[:0])
        return losses(h + jnp.sum(ys))

    graph = pjp.constraint_graph(fn)(PARAMS, X)
    assert kinds(graph) == {"parameter": 1, "sum": 1, "loss": 1}
    start = PARAMS | {"c": jnp.full((5, 3), 3.0)}  # the losses ask for ones
    solution = pjp.solve(fn, start, X, solver=pjp.DouglasRachford(), max_steps=2)
    for name in "wub":
        np.testing.assert_array_equal(solution.params[name], start[name])
    assert np.abs(solution.params["c"] - 1).max() < 2


LOOPS: dict[str, Callable[[Params, Array], Any]] = {
    "scan": lambda p, x: recurrent(lax.scan, p, x)[1],
    "eqx.internal.scan": lambda p, x: eqx.internal.scan(
        lambda h, x: (cell(p, h, x),) * 2, START, x, kind="lax"
    )[1],
    "fori_loop": lambda p, x: lax.fori_loop(0, 4, lambda i, h: cell(p, h, X[0]), START),
    "map": lambda p, x: lax.map(lambda x: cell(p, START, x), x),
    "map in batches": lambda p, x: lax.map(lambda x: cell(p, START, x), x, batch_size=2),
    "associative_scan": lambda p, x: lax.associative_scan(jnp.add, x @ p["u"]),
}


@pytest.mark.filterwarnings("ignore::pjax_prim.UnusedParameterWarning")
@pytest.mark.parametrize("name", LOOPS)
def test_loops_by_other_names(name: str) -> None:
    graph = pjp.constraint_graph(lambda p, x: losses(LOOPS[name](p, x)))(PARAMS, X)
    assert kinds(graph)["linear"] <= 2
    assert "scan_0" in str(graph) or name == "associative_scan"


ERRORS: dict[str, tuple[Callable[[Params, Array], Any], str]] = {
    "while": (
        lambda p, x: lax.while_loop(lambda h: jnp.sum(h) < 9, lambda h: h + p["c"], START),
        "no projection rule for primitive 'while'.*use jax.lax.scan, or jax.lax.fori_loop with Python "
        "integers as bounds",
    ),
    "fori_loop with traced bounds": (
        lambda p, x: lax.fori_loop(0, jnp.sum(x).astype(int), lambda i, h: h + p["c"], START),
        "'while'.*Python integers",
    ),
    "no rule in scan": (
        lambda p, x: lax.scan(lambda h, x: (lax.igamma_grad_a(cell(p, h, x), START), None), START, x)[0],
        "no projection rule for primitive 'igamma_grad_a', whose input depends on parameters. Give it one",
    ),
    "rule does not cover": (
        lambda p, x: lax.scan(lambda h, x: (cell(p, h, x) ** 0, None), START, x)[0],
        "the rule of primitive 'integer_pow' does not cover the power 0",
    ),
    "a loss and something else": (
        lambda p, x: lax.scan(
            lambda h, x: (h * pjp.squared_error(cell(p, START, x), START), h), p["b"][0] * jnp.ones(5), x
        )[0],
        "a loss of a loss has no projection; return the inner loss",
    ),
}


@pytest.mark.filterwarnings("ignore::pjax_prim.UnusedParameterWarning")
@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_line_and_what_to_do(name: str) -> None:
    function, message = ERRORS[name]
    with pytest.raises(pjp.GraphError, match=message) as caught:
        pjp.constraint_graph(lambda p, x: losses(function(p, x)))(PARAMS, X)
    assert "test_loops.py" in str(caught.value)


def test_a_primitive_without_a_batching_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    primitive = Primitive("unbatched")
    primitive.def_abstract_eval(lambda x: x)
    rules = {**registry._RULES, primitive: lambda ctx: registry.Movement("bijective")}
    monkeypatch.setattr(registry, "_RULES", rules)

    def fn(p: Array) -> list[Array]:
        return losses(lax.scan(lambda h, x: (primitive.bind(h * p), None), p, None, length=3)[0])

    with pytest.raises(pjp.GraphError, match="'unbatched' in the body of a loop has no batching") as caught:
        pjp.constraint_graph(fn)(PARAMS["b"])
    assert "test_loops.py" in str(caught.value)


@pytest.mark.parametrize("form", ["compressed", "expanded"])
def test_a_step_is_one_batched_body(form: Any) -> None:
    """No loop over iterations is left in a step, and its size does not depend on the length."""
    solver = pjp.AlternatingProjections(form=form)

    def equations(length: int) -> list[Any]:
        x = jnp.ones((length, 5, 2))
        prepared = FeasibilityProblem.of(lambda p, x: losses(recurrent(lax.scan, p, x)), RECURRENT, x)
        graph = prepared.graph_for(solver)
        problem = prepared.numbers(graph, form)
        state = solver.init(problem, prepared.trained)
        return jax.make_jaxpr(lambda state: solver.step(problem, state))(state).eqns

    short, long = equations(3), equations(30)
    assert len(short) == len(long)
    assert not {"scan", "while"} & {equation.primitive.name for equation in long}


def test_half_precision() -> None:
    """The state is in float32, the trained parameters keep their dtype."""
    half, x = jax.tree.map(lambda a: a.astype("bfloat16"), (RECURRENT, X))

    def fn(p: Params, x: Array) -> list[Array]:
        start = jnp.zeros((5, 3), "bfloat16")
        return losses(lax.scan(lambda h, x: (cell(p, h, x),) * 2, start, x)[1].astype("float32"))

    first, last = (
        pjp.solve(fn, half, x, solver=pjp.AlternatingProjections(), max_steps=steps) for steps in (1, 40)
    )
    assert last.stats["gap"] < first.stats["gap"]
    assert {leaf.dtype for leaf in jax.tree.leaves(last.params)} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(last.state)} == {jnp.dtype("float32")}


@pytest.mark.filterwarnings("ignore::pjax_prim.UnusedParameterWarning")
@pytest.mark.parametrize("name", FORWARDS)
def test_counts_of_uses(name: str) -> None:
    """What is known of them from the movements alone is what their transpose counts."""
    given = FeasibilityProblem.of(lambda p, x: losses(FORWARDS[name](lax.scan, p, x)), PARAMS, X)
    graph, constants = given.graph, given.numbers().constants
    operands = [operand for node in graph.nodes for operand in node.operands if operand.path]
    assert operands
    for operand in operands:
        expected = operand.spread(jnp.ones(operand.value.shape), constants)
        for value, count, array in zip(operand.inputs, operand.counts, expected, strict=True):
            if count is not None:
                np.testing.assert_array_equal(np.broadcast_to(count, value.shape), array)
            else:
                assert name == "key and counter"  # the mask is data


@pytest.mark.filterwarnings("ignore::pjax_prim.UnusedParameterWarning")
def test_a_loss_in_every_iteration_may_be_summed_in_the_carry() -> None:
    def fn(p: Params, x: Array) -> Array:
        def body(carry: tuple[Array, Array], x: Array) -> tuple[tuple[Array, Array], None]:
            h, total = carry
            h = cell(p, h, x)
            return (h, total + jnp.mean(pjp.squared_error(h, START))), None

        return lax.scan(body, (START, jnp.zeros(())), x)[0][1]

    graph = pjp.constraint_graph(fn)(PARAMS, X)
    assert kinds(graph) == {"parameter": 3, "linear": 2, "sum_relu": 1, "loss": 1}
    assert graph.nodes[graph.losses[0]].constraints == 20


@pytest.mark.filterwarnings("ignore::pjax_prim.UnusedParameterWarning")
def test_backward_sets_go_through_a_carry_once() -> None:
    graph = FeasibilityProblem.of(lambda p, x: losses(recurrent(lax.scan, p, x)[0]), PARAMS, X).graph
    named = [{graph.nodes[i].name for i in members} for members in graph.backward_sets()]
    weights = {"['b']", "['u']", "['w']"}
    assert named == [
        {"loss_0"},
        {"sum_relu_0"},
        {"linear_0", "linear_1", "['b']"},
        {"sum_relu_0", "['u']", "['w']"},
        {"linear_0", "linear_1", "['b']"},
        weights - {"['b']"},
    ]
