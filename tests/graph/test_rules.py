"""Every rule in the table: its graph computes the function, and a feasible point stays.

One row per JAX primitive with a rule; a new rule is one more row.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

import pjax_prim as pjp
from pjax_prim import own_losses
from pjax_prim.feasibility import FeasibilityProblem
from pjax_prim.graph.graph import Use
from pjax_prim.primitives.curves import FUNCTIONS
from pjax_prim.problem import AbstractProblem, CompressedProblem, ExpandedProblem
from pjax_prim.rules import registry
from pjax_prim.rules.scalar import Scalar

A = jax.random.normal(jax.random.key(0), (3, 4))
B = jax.random.normal(jax.random.key(1), (3, 4))
C = jax.random.normal(jax.random.key(2), (3, 4))  # a constant
HOT = jnp.eye(4)[:3]
ONE_DEVICE = jax.sharding.SingleDeviceSharding(jax.devices()[0])

Forward = Callable[[Array, Array], Any]


def pool(operation: Any, start: float) -> Callable[[Array], Array]:
    """Overlapping windows of 2 by 2, one row of padding."""
    return lambda x: lax.reduce_window(x, start, operation, (2, 2), (1, 1), ((1, 0), (0, 0)))


PLAIN: dict[str, Forward] = {
    "add": lambda a, b: a + b + C,
    "sub": lambda a, b: C - (a - b) - 1,
    "neg": lambda a, b: -(a * b),
    "mul": lambda a, b: a * b * C * 2,
    "div": lambda a, b: (a / C, a / (1 + b * b), 2 / (1 + a * a), 1 / (1 + b * b)),
    "max": lambda a, b: jnp.maximum(jnp.maximum(a, b), C),
    "min": lambda a, b: jnp.minimum(jnp.minimum(a, b), C),
    "sign": lambda a, b: jnp.sign(a),
    "quantize": lambda a, b: pjp.quantize(a, levels=5, scale=2.0),
    "sum_relu": lambda a, b: pjp.sum_relu(a, b, C),
    "threshold_dot": lambda a, b: pjp.threshold_dot(a, b[0], sigma=1e12),  # whose margin all products meet
    "dot_general": lambda a, b: lax.dot_general(a, b, (((1,), (1,)), ((), ()))),
    "abs": lambda a, b: jnp.abs(a),
    "atan": lambda a, b: jnp.arctan(a),
    "cbrt": lambda a, b: jnp.cbrt(a),
    "clamp": lambda a, b: lax.clamp(-0.5, a, 1.0),
    "cos": lambda a, b: jnp.cos(a),
    "erf": lambda a, b: lax.erf(a),
    "erf_inv": lambda a, b: lax.erf_inv(0.3 * a),
    "erfc": lambda a, b: lax.erfc(a),
    "exp": lambda a, b: jnp.exp(a),
    "exp2": lambda a, b: jnp.exp2(a),
    "expm1": lambda a, b: jnp.expm1(a),
    "integer_pow": lambda a, b: a**3,
    "log": lambda a, b: jnp.log(a * a),
    "log1p": lambda a, b: jnp.log1p(a * a),
    "logistic": lambda a, b: jax.nn.sigmoid(a),
    "pow": lambda a, b: (a * a) ** 1.5,
    "rsqrt": lambda a, b: lax.rsqrt(a * a),
    "sin": lambda a, b: jnp.sin(a),
    "sqrt": lambda a, b: jnp.sqrt(jnp.sum(a * a, 1)),
    "square": lambda a, b: lax.square(a),
    "tanh": lambda a, b: jnp.tanh(a),
    "scalar": lambda a, b: (jax.nn.gelu(a), jax.nn.silu(b)),
    "normalize": lambda a, b: (a - a.mean(1, keepdims=True)) * lax.rsqrt(a.var(1, keepdims=True) + 0.1),
    "logsumexp": lambda a, b: jax.nn.logsumexp(a, 1, keepdims=True) * b,
    "softmax": lambda a, b: jax.nn.softmax(a) * b,
    "select": lambda a, b: (jnp.where(a > C, b, 2 * a), jnp.where(a <= b, 1.0, a)),
    "ceil": lambda a, b: jnp.ceil(3 * a),
    "floor": lambda a, b: jnp.floor(3 * a),
    "round": lambda a, b: jnp.round(3 * a),
    "cumsum": lambda a, b: (jnp.cumsum(a, 1), lax.cumsum(b, 0, reverse=True)),
    "reduce_window_sum": lambda a, b: lax.reduce_window(a, 0.0, lax.add, (2, 3), (1, 2), "SAME"),
    "reduce_window_max": lambda a, b: jax.vmap(pool(lax.max, -jnp.inf))(jnp.stack([a, b])),
    "reduce_window_min": lambda a, b: pool(lax.min, jnp.inf)(a),
    "scatter-add": lambda a, b: (
        jnp.zeros((5, 4)).at[jnp.array([1, 2, 1])].add(a),
        a.at[jnp.array([1, 0])].add(b[1:]),
    ),
    "scatter": lambda a, b: a.at[jnp.array([0, 2])].set(b[:2]),
    "stop_gradient": lambda a, b: a * lax.stop_gradient(b),
    "optimization_barrier": lambda a, b: lax.optimization_barrier((a, b)),
    "reduce_precision": lambda a, b: lax.reduce_precision(a, 11, 52),
    "conv_general_dilated": lambda a, b: lax.conv(a[:, None], b[:, None, :2], (1,), "SAME"),
    "reduce_sum": lambda a, b: jnp.sum(a, 1),
    "reduce_max": lambda a, b: jnp.max(a.reshape(2, 3, 2), (0, 2)),
    "reduce_min": lambda a, b: jnp.min(a, 0),
    "psum": lambda a, b: jax.vmap(lambda a: a - lax.pmean(a, "rows"), axis_name="rows")(a),
    "pmax": lambda a, b: jax.vmap(lambda a: lax.pmax(a, "rows"), axis_name="rows")(a),
    "pmin": lambda a, b: jax.vmap(lambda a: lax.pmin(a, "rows"), axis_name="rows")(a),
    "reshape": lambda a, b: a.reshape(2, 6),
    "transpose": lambda a, b: a.T,
    "squeeze": lambda a, b: lax.squeeze(a.reshape(3, 1, 4), (1,)),
    "rev": lambda a, b: lax.rev(a, (1,)),
    "copy": lambda a, b: jnp.copy(a),
    "concatenate": lambda a, b: lax.concatenate([a, C, b], 0),
    "stack": lambda a, b: jnp.stack([a, b]),
    "tile": lambda a, b: jnp.tile(a, (1, 2)),
    "unstack": lambda a, b: jnp.unstack(a, axis=1),
    "slice": lambda a, b: lax.slice(a, (0, 1), (3, 4), (1, 2)),
    "split": lambda a, b: lax.split(a, (1, 3), 1),
    "broadcast_in_dim": lambda a, b: jnp.broadcast_to(a, (2, 3, 4)),
    "convert_element_type": lambda a, b: a.astype("float32"),
    "pad": lambda a, b: lax.pad(a, 2.0, ((1, 0, 0), (-1, 0, 1))),
    "gather": lambda a, b: a[jnp.array([2, 0, 2])],
    "dynamic_slice": lambda a, b: lax.dynamic_slice(a, (jnp.asarray(1), jnp.asarray(1)), (2, 3)),
    "dynamic_update_slice": lambda a, b: lax.dynamic_update_slice(
        a, b[:2, :2], (jnp.asarray(1), jnp.asarray(1))
    ),
    "select_n": lambda a, b: jnp.where(C > 0, a, b),
    "one_hot_argmax": lambda a, b: pjp.one_hot_argmax(a),
    "top_k_mask": lambda a, b: pjp.top_k_mask(a, 2),
    "name": lambda a, b: checkpoint_name(a, "rows"),
    "device_put": lambda a, b: jax.device_put(a),
    "sharding_constraint": lambda a, b: lax.with_sharding_constraint(a, ONE_DEVICE),
    "reshard": lambda a, b: a,  # only under an explicit mesh (tests/test_contexts.py)
    "pvary": lambda a, b: a,  # only inside a shard_map
}
"""Primitive -> a function of two parameters that uses it."""

SCALARS = FUNCTIONS.keys() & PLAIN.keys() - {"log", "tanh"}
"""One constraint each: projections are tested for each function, cycles for the two that are left out."""

LOSSES: dict[str, tuple[Forward, Array | None]] = {
    "margin_loss": (lambda a, b: pjp.margin_loss(a, HOT), 2 * HOT),
    "cross_entropy": (lambda a, b: pjp.cross_entropy(a, HOT, lam=0.5), None),
    "squared_error": (lambda a, b: pjp.squared_error(a, C, lam=0.5), C),
    "equality": (lambda a, b: pjp.equality(a, C), C),
    "absolute_error": (lambda a, b: pjp.absolute_error(a, C), C),
    "at_most": (lambda a, b: pjp.at_most(a, C), C - 1),
    "binary_cross_entropy": (lambda a, b: pjp.binary_cross_entropy(a, HOT), None),
    "huber": (lambda a, b: pjp.huber(a, C, delta=0.5), C),
    "kl_divergence": (lambda a, b: pjp.kl_divergence(a, jax.nn.softmax(C)), jax.nn.log_softmax(C)),
    "minimise": (lambda a, b: pjp.minimise(a), None),
}
"""Each loss, and where it is at rest; cross-entropies and what is minimised are at rest nowhere."""


def name(primitive: Any) -> str:
    """As in the tables: the library's own primitives without their prefix."""
    return primitive.name.removeprefix("pjax_")


def primitives_of(graph: pjp.ConstraintGraph) -> set[str]:
    return {name(equation.primitive) for equation in graph.function.equations}


def test_every_rule_is_in_the_table() -> None:
    of_other_tests = {"triple", *own_losses._NAMES}
    assert {name(primitive) for primitive in registry._RULES} - {*PLAIN, *LOSSES, *of_other_tests} == set()


def problems_of(fn: Callable[[Any], Any]) -> tuple[pjp.ConstraintGraph, list[AbstractProblem]]:
    problem = FeasibilityProblem.of(fn, (A, B))
    graph = problem.graph.two_coloured
    constants = graph.constants(problem.data, problem.captured)
    return graph, [kind(graph, constants) for kind in (ExpandedProblem, CompressedProblem)]


@pytest.mark.filterwarnings("ignore::pjax_prim.UnusedParameterWarning")
@pytest.mark.parametrize("row", PLAIN)
def test_constraint_or_movement(row: str) -> None:
    if row not in map(name, registry._RULES):
        pytest.skip("this version of JAX has no such primitive")
    forward = PLAIN[row]
    results = [jnp.asarray(x) for x in jax.tree.leaves(forward(A, B))]

    def fn(params: tuple[Array, Array]) -> list[Array]:
        return [pjp.equality(x, y) for x, y in zip(jax.tree.leaves(forward(*params)), results, strict=True)]

    graph, problems = problems_of(fn)
    if row not in ("stack", "tile", "reshard", "pvary"):  # some versions of JAX make them of others
        kinds = {node.constraint.kind for node in graph.nodes if node.constraint is not None}
        assert row in primitives_of(graph) | kinds
    if row in SCALARS:
        (node,) = (node for node in graph.nodes if node.name == "scalar_0")
        assert isinstance(node.constraint, Scalar) and node.constraint.function == row
    if row in SCALARS:
        return

    def cycle(params: list[Array], problem: AbstractProblem) -> tuple[Any, ...]:
        state, read = problem.initial(params), []
        for loss in graph.losses:
            (operand,) = graph.nodes[loss].operands
            means = [problem.means(state)(Use(loss, 0, i)) for i in range(len(operand.inputs))]
            read.append(operand.gather(means, problem.constants))
        return state, read, *problem.cycle(state)

    cycles = jax.jit(lambda params: [cycle(params, problem) for problem in problems])
    for state, read, after, moved in cycles([A, B]):
        chex.assert_trees_all_close(read, results, rtol=1e-14)
        chex.assert_trees_all_close(after, state, rtol=0, atol=1e-7 if "convert" in row else 1e-12)
        chex.assert_trees_all_close(moved, [np.zeros(len(graph.nodes))] * 2, atol=1e-13)


@pytest.mark.filterwarnings("ignore::pjax_prim.UnusedParameterWarning")
@pytest.mark.parametrize("row", LOSSES)
def test_loss(row: str) -> None:
    loss, at_rest = LOSSES[row]
    graph, problems = problems_of(lambda params: loss(*params))
    (index,) = graph.losses
    constraint = graph.nodes[index].constraint
    assert constraint is not None and constraint.is_loss
    for problem in problems:
        constants = problem.constant_operands(index)
        np.testing.assert_allclose(constraint.forward((A,), constants), loss(A, B), rtol=1e-14)
        if at_rest is not None:
            (resting,) = constraint.project((at_rest,), None, constants)
            np.testing.assert_allclose(resting, at_rest, rtol=0, atol=1e-15)


@jax.custom_jvp
def halved(x: Array) -> Array:
    return jnp.tan(x)


halved.defjvp(lambda primals, tangents: (halved(*primals), tangents[0]))


@pytest.mark.filterwarnings("ignore::pjax_prim.UnusedParameterWarning")
@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda a, b: (a > 0) * b, "primitive 'gt'.*can only choose"),
        (lambda a, b: a.astype("int32").astype(float), "this rounds"),
        (lambda a, b: lax.pad(a, b[0, 0], ((1, 0, 0), (0, 0, 0))), "pad with a constant"),
        (lambda a, b: lax.integer_pow(a, 0), "the power 0"),
    ],
)
def test_what_the_rules_do_not_cover(forward: Forward, message: str) -> None:
    with pytest.raises(pjp.GraphError, match=message) as caught:
        pjp.constraint_graph(lambda p: pjp.squared_error(x := forward(*p), jnp.zeros(x.shape)))((A, B))
    assert "test_rules.py" in str(caught.value)


@pytest.mark.parametrize(
    ("forward", "operations"),
    [
        (lambda a, b: jnp.where((a > 0) & (a == b), a, b), "gt.*select_n"),
        (lambda a, b: jnp.where(a == b, a, b), "eq.*select_n"),
        (
            lambda a, b: lax.reduce_window(a + b, 0.0, lax.add, (2, 2), (1, 1), "SAME", (2, 2)),
            "reduce_window_sum",
        ),
    ],
)
def test_what_is_linearised_instead(forward: Forward, operations: str) -> None:
    with pytest.warns(pjp.LinearisedConstraintWarning, match=operations):
        pjp.constraint_graph(lambda p: pjp.squared_error(x := forward(*p), jnp.zeros(x.shape)))((A, B))


def test_labels_must_be_data() -> None:
    for loss in (pjp.squared_error, pjp.equality):
        with pytest.raises(pjp.GraphError, match="the labels depend on a parameter"):
            pjp.constraint_graph(lambda p, loss=loss: loss(*p))((A, B))
