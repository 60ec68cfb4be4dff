"""Functions are recognised by their traces: each is what it computes, whatever the dtype and the settings."""

from collections.abc import Callable
from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import pjax_prim as pjp
from pjax_prim.graph import ConstraintGraph, examples, rows
from pjax_prim.primitives.curves import curve

DTYPES = ["float32", "float64", "bfloat16"]
X = np.concatenate([np.linspace(-4, 4, 17), [100.0, 300.0, -300.0]])
PARAMETERS = {
    "elu": (0.75, 1.25),
    "leaky_relu": (0.25,),
    "clamp": (-1.5, 2.5),
    "maximum": (-1.25,),
    "minimum": (1.25,),
}
Function = Callable[[Array], Array]


def graph_of(f: Function, x: Array) -> ConstraintGraph:
    return pjp.constraint_graph(lambda x: pjp.equality(f(x), jnp.zeros(x.shape, x.dtype)))(x)


def kinds(graph: ConstraintGraph) -> list[str]:
    found = [
        f"{node.kind} {node.constraint.describe()}" for node in graph.nodes if node.constraint is not None
    ]
    return [text.strip() for text in found if not text.startswith(("loss", "identity"))]


def value_of(graph: ConstraintGraph, x: Array) -> Array:
    """What the constraints compute one after the other: the operand of the loss."""
    outputs: dict[int, Array] = {}
    constants = graph.constants([], [])
    for index, node in enumerate(graph.nodes):
        if node.constraint is None:
            outputs[index] = x
            continue
        operands = tuple(o.gather([outputs[p] for p in o.producers], constants) for o in node.operands)
        if node.constraint.is_loss:
            return operands[0]
        known = tuple(
            jnp.asarray(constants[c] if c.literal is None else c.literal, operands[0].dtype)
            for c in node.constants
        )
        outputs[index] = node.constraint.forward(operands, known)
    raise AssertionError


def check_value(f: Function, x: Array) -> ConstraintGraph:
    """A half precision rounds after each operation, a graph does not."""
    graph = graph_of(f, x)
    tolerance = 8 * float(jnp.finfo(x.dtype).eps)
    wide = x.astype("float32") if x.dtype.itemsize == 2 else x
    found, expected = value_of(graph, wide), f(wide if x.dtype.itemsize == 2 else x)
    chex.assert_trees_all_close(
        found.astype("float64"), expected.astype("float64"), rtol=tolerance, atol=tolerance
    )
    return graph


def name_of(example: examples.Example, parameters: tuple[float, ...]) -> str:
    if example.name in ("maximum", "minimum", "relu"):
        return {"maximum": "clip below", "minimum": "clip above", "relu": "sum_relu"}[example.name]
    accepted = example.accept(*parameters)
    assert accepted is not None
    curve(example.name, accepted)
    return " ".join(["scalar", example.name, *(f"{x:g}" for x in accepted)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("row", range(len(examples.EXAMPLES)), ids=lambda i: examples.EXAMPLES[i].name)
def test_every_example_is_the_function_of_its_name(row: int, dtype: str) -> None:
    example = examples.EXAMPLES[row]
    parameters = PARAMETERS.get(example.name, ())[: example.count]
    if example.accept is examples._above_one:
        parameters = (1.5,)
    low, high = (0.25, 3.0) if example.name in ("rsqrt", "log1p") else (-4.0, 4.0)
    x = jnp.linspace(low, high, 18, dtype=dtype).reshape(3, 6)
    for function in example.functions:
        graph = check_value(lambda x, f=function: f(x, *parameters), x)
        assert kinds(graph) == [name_of(example, parameters)]


LOOK_ALIKE: dict[str, tuple[Function, list[str]]] = {
    "wide clip": (lambda x: jnp.clip(x, 0, 255), ["scalar clamp 0 255"]),
    "clip that is empty": (lambda x: jnp.clip(x, 2, 1), ["clip below", "clip above"]),
    "large threshold": (lambda x: jnp.where(x > 200, 200.0, x), ["clip above"]),
    "large threshold, large value": (lambda x: jnp.where(x > 200, 150.0, x), ["select x > c ? c : b"]),
    "tanh and a number": (lambda x: jnp.tanh(x) + jnp.asarray(0.05, x.dtype), ["scalar tanh", "sum ++c"]),
    "hard_sigmoid": (jax.nn.hard_sigmoid, ["sum ++c", "scalar clamp 0 6", "scale"]),
    "hard_silu": (jax.nn.hard_silu, ["sum ++c", "scalar clamp 0 6", "scale", "product"]),
    "mish": (jax.nn.mish, ["scalar softplus", "scalar tanh", "product"]),
    "QuickGELU": (lambda x: x * jax.nn.sigmoid(1.702 * x), ["scale", "scalar logistic", "product"]),
    "gelu times a number": (lambda x: 1.0078125 * jax.nn.gelu(x), ["scalar gelu_tanh", "scale"]),
    "gelu of another number": (
        lambda x: 0.5 * x * (1 + jnp.tanh(0.8125 * (x + 0.044715 * x**3))),
        ["scale", "scalar integer_pow 3", "scale", "sum", "scale", "scalar tanh", "sum ++c", "product"],
    ),
    "a kink elsewhere": (lambda x: jnp.where(x > 1, x, 0.5 * x), ["scale", "select x > c ? a : b"]),
    "two slopes": (lambda x: jnp.where(x > 0, 2 * x, 0.5 * x), ["scale", "scale", "select x > c ? a : b"]),
    "the smaller of two lines": (lambda x: jnp.minimum(x, 0.25 * x), ["scale", "maximum min"]),
    "elu of two numbers": (
        lambda x: jnp.where(x > 0, x, 0.5 * jnp.expm1(jnp.minimum(x, 0) / 0.25)),
        ["clip above", "scale", "scalar expm1", "scale", "select x > c ? a : b"],
    ),
    "log of two and exp": (
        lambda x: jnp.log(2 + jnp.exp(0.01 * x)), ["scale", "scalar exp", "sum ++c", "scalar log"]
    ),
    "between": (
        lambda x: jnp.where((x >= -1) & (x <= 1), x**3, x),
        ["scalar integer_pow 3", "select x <= c ? a : b", "select x >= c ? a : b"],
    ),
    "outside": (
        lambda x: jnp.where((x < -1) | ~(x <= 1), x, jnp.sin(x)),
        ["scalar sin", "select x <= c ? a : b", "select x < c ? a : b"],
    ),
    "data and a comparison": (
        lambda x: jnp.where((jnp.arange(x.size) > 9) & (x > 0), x, 2 * x), ["scale", "select x > c ? a : b"]
    ),
    "one comparison for all": (lambda x: jnp.where(x[3] > 0, x, 2 * x), ["scale", "select x > c ? a : b"]),
    "finite": (lambda x: jnp.where(jnp.isfinite(x) & (x > 0), x, 2 * x), ["scale", "select x > c ? a : b"]),
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("row", LOOK_ALIKE)
def test_what_looks_alike_is_what_it_computes(row: str, dtype: str) -> None:
    f, expected = LOOK_ALIKE[row]
    assert kinds(check_value(f, jnp.asarray(X, dtype))) == expected


def test_a_number_that_a_dtype_cannot_tell_from_one() -> None:
    f = lambda x: 1.0000001 * jax.nn.gelu(x)  # noqa: E731
    for dtype in DTYPES:
        assert kinds(graph_of(f, jnp.ones(3, dtype))) == ["scalar gelu_tanh", "scale"]


def test_constants_are_those_of_the_dtype() -> None:
    """0.0447 and 0.044715 are one number in bfloat16, two in float32."""
    f = lambda x: 0.5 * x * (1 + jnp.tanh(np.sqrt(2 / np.pi).astype(x.dtype) * (x + 0.0447 * x**3)))  # noqa: E731
    assert kinds(graph_of(f, jnp.ones(3, "bfloat16"))) == ["scalar gelu_tanh"]
    assert "scalar gelu_tanh" not in kinds(graph_of(f, jnp.ones(3, "float32")))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_conversions_on_the_way(dtype: str) -> None:
    x = jnp.asarray(X[:-3], dtype)
    whole = lambda x: jax.nn.gelu(x.astype("float32")).astype(dtype)  # noqa: E731
    part = lambda x: x * jax.nn.sigmoid(x.astype("float32")).astype(dtype)  # noqa: E731
    assert kinds(check_value(whole, x)) == ["scalar gelu_tanh"]
    assert kinds(check_value(part, x)) == ["scalar logistic", "product"]


def test_inside_loops_and_vmaps() -> None:
    def f(x: Array) -> Array:
        return jax.lax.scan(lambda h, row: (jax.nn.gelu(h + row),) * 2, jnp.zeros(6), x.reshape(3, 6))[
            1
        ].ravel()

    assert "scalar gelu_tanh" in kinds(graph_of(f, jnp.ones(18)))
    g = jax.vmap(jax.vmap(jax.nn.elu))
    graph = pjp.constraint_graph(lambda x: pjp.equality(g(x), jnp.zeros((2, 3))))(jnp.ones((2, 3)))
    assert kinds(graph) == ["scalar elu 1 1 1"]


class Net(eqx.Module):
    mlp: eqx.nn.MLP
    norm: eqx.nn.LayerNorm
    scale: eqx.nn.RMSNorm

    def __call__(self, x: Array) -> Array:
        return jnp.clip(self.scale(self.norm(jax.nn.elu(self.mlp(x)))), -1.0, 2.0)


COMPILED: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **__: COMPILED.append(event) if "backend_compile" in event else None
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jax_debug_nans", True),
        ("jax_debug_infs", True),
        ("jax_disable_jit", True),
        ("jax_transfer_guard", "disallow"),
        ("jax_numpy_dtype_promotion", "strict"),
        ("jax_numpy_rank_promotion", "raise"),
        ("jax_check_tracer_leaks", True),
        ("jax_enable_x64", False),
    ],
)
def test_settings_change_nothing_and_nothing_is_compiled(name: str, value: Any) -> None:
    net = Net(
        eqx.nn.MLP(5, 4, 6, 2, activation=jax.nn.gelu, key=jax.random.key(0)),
        eqx.nn.LayerNorm(4),
        eqx.nn.RMSNorm(4),
    )
    params, x = (
        jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, "float32"), eqx.filter(tree, eqx.is_array))
        for tree in (net, jnp.ones((3, 5)))
    )
    static = eqx.filter(net, eqx.is_array, inverse=True)

    def loss(params: Net, x: Array) -> Array:
        return pjp.cross_entropy(
            jax.vmap(eqx.combine(params, static))(x), jnp.zeros((len(x), 4), "float32").at[:, 0].set(1.0)
        )

    expected = str(pjp.constraint_graph(loss)(params, x))
    assert expected.count("gelu_tanh") == 2 and expected.count("normalize") >= 2
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        examples._traced.cache_clear()
        examples._by_end.cache_clear()
        rows._patterns.cache_clear()
        COMPILED.clear()
        assert str(pjp.constraint_graph(lambda *args: loss(*args))(params, x)) == expected
        assert not COMPILED
    finally:
        jax.config.update(name, before)


def test_nothing_is_traced_before_it_is_asked_for() -> None:
    import subprocess
    import sys

    code = "import pjax_prim.graph.examples as e, pjax_prim.graph.rows as r; " \
           "print(e._traced.cache_info().currsize, r._patterns.cache_info().currsize)"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0"]


def test_what_a_program_cannot_contain_is_not_traced() -> None:
    assert not examples.patterns("float32", frozenset())
    found = examples.patterns("float32", frozenset({jax.lax.tanh_p}))
    assert {example.name for rows in found.values() for example, _ in rows} == {"gelu_tanh", "logistic"}
