"""What graphs of ordinary networks look like: nodes, fusion, calls, constants, sets, printing."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import pjax_prim as pjp
from pjax_prim.graph import ConstraintGraph, Node
from pjax_prim.rules.elementwise import Sum, SumRelu

X = jnp.linspace(-1, 1, 20).reshape(5, 4)
W = jnp.linspace(-1, 2, 12).reshape(4, 3)
TARGET = jnp.zeros((5, 3))


def graph_of(forward: Callable[..., Any], params: Any = W, target: Any = TARGET) -> ConstraintGraph:
    return pjp.constraint_graph(lambda params: pjp.squared_error(forward(params), target))(params)


def problem_of(forward: Callable[[Array], Array]) -> pjp.FeasibilityProblem:
    return pjp.FeasibilityProblem.of(lambda w: pjp.squared_error(forward(w), TARGET), W)


def kinds(graph: ConstraintGraph) -> Counter[str]:
    return Counter(node.kind for node in graph.nodes)


def node(graph: ConstraintGraph, name: str) -> Node:
    (found,) = (node for node in graph.nodes if node.name == name)
    return found


def test_linear() -> None:
    model = eqx.nn.Linear(4, 3, key=jax.random.key(0))
    graph = graph_of(lambda model: jax.vmap(model)(X), model)
    assert kinds(graph) == {"parameter": 2, "linear": 1, "sum": 1, "loss": 1}
    assert [node.name for node in graph.nodes[:2]] == [".weight", ".bias"]
    dot, total = node(graph, "linear_0"), node(graph, "sum_0")
    assert (dot.constraints, dot.copies) == (15, 2 * 15 * 4)
    assert sorted(dot.multiplicity) == [3, 5]
    assert (total.constraints, total.copies) == (15, 30)
    assert total.constraint == Sum((1, 1))
    bias = graph.uses[1]
    assert len(bias) == 1
    assert graph.nodes[bias[0].consumer].operands[bias[0].operand].counts == (5,)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("use_bias", [True, False])
def test_mlp(depth: int, use_bias: bool) -> None:
    model = eqx.nn.MLP(4, 3, 6, depth, use_bias=use_bias, use_final_bias=use_bias, key=jax.random.key(0))
    graph = graph_of(lambda model: jax.vmap(model)(X), model)
    layers = depth + 1
    expected = Counter(parameter=layers * (1 + use_bias), linear=layers, sum_relu=depth, loss=1)
    if use_bias:
        expected["sum"] = 1
    assert kinds(graph) == expected
    for i in range(depth):
        assert node(graph, f"sum_relu_{i}").constraint == SumRelu((1,) * (1 + use_bias))
    assert graph.identities == 0
    assert_two_coloured(graph)


def assert_two_coloured(graph: ConstraintGraph) -> None:
    assert graph.colours is not None
    for consumer, producers in enumerate(graph.producers):
        assert all(graph.colours[producer] != graph.colours[consumer] for producer in producers)
    assert graph.colours[graph.losses[0]] == 0
    assert sorted((*graph.sets[0], *graph.sets[1])) == list(range(len(graph.nodes)))


PARAMS = {"a": jnp.ones((5, 3)), "b": jnp.ones(3), "c": jnp.ones((5, 3))}


def test_sums_fuse_with_their_signs() -> None:
    graph = graph_of(lambda p: jax.nn.relu(p["a"] - (p["b"] - p["c"]) + 2.0), PARAMS)
    assert kinds(graph) == {"parameter": 3, "sum_relu": 1, "loss": 1}
    constraint = node(graph, "sum_relu_0").constraint
    assert constraint == SumRelu((1, -1, 1), (1,))


def test_a_sum_used_twice_is_not_fused() -> None:
    def forward(p: dict[str, Array]) -> Array:
        h = p["a"] + p["b"]
        return jax.nn.relu(h + p["c"]) * h

    graph = graph_of(forward, PARAMS)
    nodes = {"parameter": 3, "sum": 1, "sum_relu": 1, "product": 1, "loss": 1, "identity": 1}
    assert kinds(graph) == nodes


def test_a_sum_that_is_broadcast_is_not_fused() -> None:
    """It would be another problem: one value with many copies instead of many values."""
    graph = graph_of(
        lambda p: jax.nn.relu((p["b"] + p["d"]) + p["a"]), {**PARAMS, "d": jnp.ones(3)} | {"c": 1.0}
    )
    assert kinds(graph)["sum"] == 1
    assert node(graph, "sum_0").constraints == 3


def test_a_transposed_sum_is_fused() -> None:
    graph = graph_of(lambda p: jax.nn.relu((p["a"] + p["c"]).T + 1.0).T, PARAMS | {"b": 1.0})
    assert kinds(graph) == {"parameter": 2, "sum_relu": 1, "loss": 1}
    gathered = node(graph, "sum_relu_0").operands[0].gather([PARAMS["a"]], {})
    assert gathered.shape == (3, 5)


@jax.custom_jvp
def with_custom_jvp(w: Array) -> Array:
    return X @ w


with_custom_jvp.defjvp(lambda primals, tangents: (with_custom_jvp(*primals), X @ tangents[0]))


@jax.custom_vjp
def with_custom_vjp(w: Array) -> Array:
    return X @ w


with_custom_vjp.defvjp(lambda w: (X @ w, None), lambda _, y: (X.T @ y,))


@jax.custom_batching.custom_vmap
def with_custom_vmap(w: Array) -> Array:
    return X @ w


@with_custom_vmap.def_vmap
def _(size: int, batched: list[bool], w: Array) -> tuple[Array, bool]:
    return jnp.einsum("bi,gio->gbo", X, w), True


CALLS: dict[str, Callable[[Array], Array]] = {
    "jit": jax.jit(lambda w: X @ w),
    "jit in jit": jax.jit(lambda w: jax.jit(lambda w: X @ w)(w)),
    "custom_jvp": with_custom_jvp,
    "custom_vjp": with_custom_vjp,
    "remat": jax.checkpoint(lambda w: X @ w),
    "custom_vmap": with_custom_vmap,
    "named_call": jax.named_call(lambda w: X @ w, name="layer"),
    "filter_jit": eqx.filter_jit(lambda w: X @ w),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_calls_are_walked_through(call: Callable[[Array], Array]) -> None:
    problem = problem_of(call)
    assert kinds(problem.graph) == {"parameter": 1, "linear": 1, "loss": 1}
    operand = node(problem.graph, "linear_0").operands[0]
    np.testing.assert_array_equal(operand.gather([], problem.numbers().constants), X)


def test_constants_are_evaluated() -> None:
    """No rule exists for sin, sort or a loop, and none is needed: they see only data."""

    def forward(w: Array) -> Array:
        scale = jax.lax.fori_loop(0, 3, lambda i, s: s + jnp.sin(X).sum(), 0.0)
        return (jnp.sort(jnp.tanh(X), 0) * scale) @ w

    problem = problem_of(forward)
    assert kinds(problem.graph) == {"parameter": 1, "linear": 1, "loss": 1}
    data = node(problem.graph, "linear_0").operands[0].gather([], problem.numbers().constants)
    expected = np.sort(np.tanh(X), 0) * (3 * np.sin(X).sum())
    np.testing.assert_allclose(data, expected, rtol=1e-12)


def test_equal_constants_do_not_merge() -> None:
    other = X + 1

    def fn(w: Array, x: Array, y: Array) -> list[Array]:
        return [pjp.squared_error(data @ w, TARGET) for data in (x, y, X, other)]

    problem = pjp.FeasibilityProblem.of(fn, W, X, other)
    graph, constants = problem.graph, problem.numbers().constants
    found = [node(graph, f"linear_{i}").operands[0] for i in range(4)]
    assert all(operand.is_constant for operand in found)
    for operand, expected in zip(found, (X, other, X, other), strict=True):
        np.testing.assert_array_equal(operand.gather([], constants), expected)


def test_abstract_arguments() -> None:
    shapes = jax.eval_shape(lambda: (W, X))
    graph = pjp.constraint_graph(lambda w, x: pjp.squared_error(x @ w, TARGET))(*shapes)
    assert kinds(graph) == {"parameter": 1, "linear": 1, "loss": 1}


def test_arithmetic_after_a_loss_makes_no_node() -> None:
    def fn(w: Array) -> tuple[Array, Array]:
        loss = pjp.squared_error(X @ w, TARGET)
        return jnp.mean(loss) + 3, 2 * loss

    assert kinds(pjp.constraint_graph(fn)(W)) == {"parameter": 1, "linear": 1, "loss": 1}


def test_what_leads_to_no_loss_needs_no_rule() -> None:
    def fn(w: Array) -> Array:
        h = X @ w
        jnp.sort(h)
        return pjp.squared_error(h, TARGET)

    assert kinds(pjp.constraint_graph(fn)(W)) == {"parameter": 1, "linear": 1, "loss": 1}


def test_backward_sets_of_a_skip() -> None:
    """Nodes that paths of different lengths reach are in several sets."""

    def fn(p: dict[str, Array], x: Array) -> Array:
        h = jax.nn.relu(x @ p["a"])
        return pjp.squared_error(jax.nn.relu(h @ p["b"]) + h, jnp.zeros((5, 4)))

    square = {"a": jnp.eye(4), "b": jnp.eye(4)}
    plain = pjp.FeasibilityProblem.of(fn, square, X).graph
    named = [{plain.nodes[i].name for i in members} for members in plain.backward_sets()]
    assert named == [
        {"loss_0"},
        {"sum_0"},
        {"sum_relu_0", "sum_relu_1"},
        {"linear_0", "linear_1"},
        {"['a']", "['b']", "sum_relu_0"},
        {"linear_0"},
        {"['a']"},
    ]


def test_identities_are_few_and_shared() -> None:
    """One producer with many consumers of its own colour needs one identity for all."""

    def fn(p: dict[str, Array], x: Array) -> list[Array]:
        h = x @ p["a"]
        return [pjp.squared_error(h * (h @ p[name]), jnp.zeros((5, 4))) for name in ("b", "c")]

    square = {name: jnp.eye(4) for name in "abc"}
    graph = pjp.constraint_graph(fn)(square, X)
    assert graph.identities == 1
    assert_two_coloured(graph)
    (identity,) = (i for i, node in enumerate(graph.nodes) if node.kind == "identity")
    assert len(graph.uses[identity]) == 2
    assert "1 identities inserted" in str(graph)


def test_printing() -> None:
    def fn(p: dict[str, Array], x: Array) -> Array:
        h = jax.nn.relu(x @ p["w"] + p["b"])
        return pjp.cross_entropy(jnp.concatenate([h, h], -1), jnp.zeros(5, int), lam=0.5)

    params = {"w": jnp.zeros((4, 3), "float32"), "b": jnp.zeros(3, "float32")}
    text = str(pjp.constraint_graph(fn)(params, X.astype("float32")))
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert text.splitlines()[0] == (
        "constraint graph: 2 parameters, 3 constraint nodes, 0 identities inserted"
    )
    assert lines["['w']"].split()[1:] == ["float32[4,3]", "B", "12", "48", "B", "48", "B"]
    # 15 dot products of length 4: 120 copies of 4 bytes; compressed only the weights.
    assert lines["linear_0[ab,bc]"].split()[1] == "float32[5,3]"
    assert lines["linear_0[ab,bc]"].split()[-6:] == ["15", "120", "480", "B", "48", "B"]
    assert "data float32[5,4]; ['w']" in lines["linear_0[ab,bc]"]
    assert "broadcast_in_dim" in lines["sum_relu_0"]
    assert "concatenate(sum_relu_0" in lines["loss_0[cross_entropy]"]
    assert lines["total"].split()[1:3] == ["35", "195"]


def test_half_precision_in_strict_promotion() -> None:
    """Strict settings are for what a user writes; a product in bfloat16 is computed in float32."""

    def forward(w: Array) -> Array:
        hidden = jax.nn.gelu(X.astype("bfloat16") @ w.astype("bfloat16"))
        return jax.nn.softmax(hidden).astype(TARGET.dtype)

    plain = str(graph_of(forward))
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        assert str(graph_of(forward)) == plain
        assert pjp.squared_error(X.astype("bfloat16"), X).dtype == jnp.bfloat16


def test_printing_what_has_no_elements() -> None:
    """A parameter of no elements has a loss of none."""
    graph = pjp.constraint_graph(lambda p: jnp.sum(jnp.exp(p["w"])) + jnp.sum(p["none"]))(
        {"w": jnp.ones(3), "none": jnp.ones(0)}
    )
    assert "['none']" in str(graph) and sum(node.constraints for node in graph.nodes) > 0
