"""Compositions that `jax.nn` and users write become one constraint, and only those that are one."""

from collections.abc import Callable
from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array

import pjax_prim as pjp
from pjax_prim.rules.logsumexp import LogSumExp
from pjax_prim.rules.normalize import Normalize
from pjax_prim.rules.scalar import Scalar
from pjax_prim.rules.softmax import Softmax

X = jax.random.normal(jax.random.key(0), (3, 4))


def _plain(layer: Any, **settings: Any) -> Any:
    return layer(4, use_weight=False, use_bias=False, **settings)


ONE: dict[str, tuple[Callable[[Array], Array], str]] = {
    "gelu": (jax.nn.gelu, "scalar gelu_tanh"),
    "gelu by erf": (lambda x: jax.nn.gelu(x, approximate=False), "scalar gelu"),
    "silu": (jax.nn.silu, "scalar silu"),
    "softplus": (jax.nn.softplus, "scalar softplus"),
    "log_sigmoid": (jax.nn.log_sigmoid, "scalar log_sigmoid"),
    "soft_sign": (jax.nn.soft_sign, "scalar soft_sign"),
    "elu": (jax.nn.elu, "scalar elu 1 1 1"),
    "selu": (jax.nn.selu, "scalar elu 1.0507 1.7581 1"),
    "celu": (lambda x: jax.nn.celu(x, 2.0), "scalar elu 1 2 2"),
    "leaky_relu": (jax.nn.leaky_relu, "scalar leaky_relu 0.01"),
    "relu6": (jax.nn.relu6, "scalar clamp 0 6"),
    "hard_tanh": (jax.nn.hard_tanh, "scalar clamp -1 1"),
    "clip": (lambda x: jnp.clip(x, -1, 2), "scalar clamp -1 2"),
    "where": (lambda x: jnp.where(x > 0, x, 0.0), "sum_relu "),
    "sigmoid by hand": (lambda x: 1 / (1 + jnp.exp(-x)), "scalar logistic"),
}
NORMS: dict[str, tuple[Callable[[Array], Array], str]] = {
    "LayerNorm": (jax.vmap(_plain(eqx.nn.LayerNorm)), "normalize axes=(1,) eps=1e-05 center"),
    "RMSNorm": (jax.vmap(_plain(eqx.nn.RMSNorm, eps=1e-3)), "normalize axes=(1,) eps=0.001"),
    "by hand": (
        lambda x: (x - x.mean(0)) / jnp.sqrt(jnp.mean((x - x.mean(0)) ** 2, 0) + 0.1),
        "normalize axes=(0,) eps=0.1 center",
    ),
    "of one variance": (
        lambda x: (x - jnp.mean(x)) * jax.lax.rsqrt(jnp.mean(x**2) - jnp.mean(x) ** 2 + 0.5),
        "normalize axes=(0, 1) eps=0.5 center",
    ),
    "jax.nn.standardize": (
        lambda x: jax.nn.standardize(x, epsilon=1e-2), "normalize axes=(1,) eps=0.01 center"
    ),
    "flat": (
        lambda x: ((v := x.ravel()) * jax.lax.rsqrt(jnp.mean(v**2) + 0.2)).reshape(x.shape),
        "normalize axes=(0,) eps=0.2",
    ),
}  # fmt: skip
NO_NORMS: dict[str, Callable[[Array], Array]] = {
    "its variance is used": lambda x: (x - x.mean(0)) * (r := jax.lax.rsqrt(x.var(0) + 0.1)) + r,
    "of a sum": lambda x: x * jax.lax.rsqrt(jnp.sum(x**2, -1, keepdims=True) + 0.1),
    "unbiased": lambda x: (x - x.mean(0)) * jax.lax.rsqrt(x.var(0, ddof=1) + 0.1),
    "over other axes": lambda x: (x - x.mean(0)) * jax.lax.rsqrt(x.var(1, keepdims=True) + 0.1),
    "absolute": lambda x: x / (jnp.mean(jnp.abs(x), -1, keepdims=True) + 0.1),
}
SOFTMAXES: dict[str, tuple[Callable[[Array], Array], str]] = {
    "jax.nn.softmax": (jax.nn.softmax, "softmax axes=(1,)"),
    "along another axis": (lambda x: jax.nn.softmax(x, 0), "softmax axes=(0,)"),
    "along both": (lambda x: jax.nn.softmax(x, (0, 1)), "softmax axes=(0, 1)"),
    "of each row": (jax.vmap(jax.nn.softmax), "softmax axes=(1,)"),
    "by hand": (lambda x: jnp.exp(x) / jnp.exp(x).sum(0), "softmax axes=(0,)"),
    "less the largest": (
        lambda x: (t := jnp.exp(x - x.max(-1, keepdims=True))) / t.sum(-1, keepdims=True),
        "softmax axes=(1,)",
    ),
    "by its logarithm": (lambda x: jnp.exp(jax.nn.log_softmax(x)), "softmax axes=(1,)"),
    "by the normaliser": (lambda x: jnp.exp(x - jax.nn.logsumexp(x, -1, keepdims=True)), "softmax axes=(1,)"),
}
LOGSUMEXPS: dict[str, tuple[Callable[[Array], Array], str]] = {
    "jax.nn.logsumexp": (lambda x: jax.nn.logsumexp(x, -1), "logsumexp axes=(1,)"),
    "jax.scipy.special.logsumexp": (lambda x: jax.scipy.special.logsumexp(x, 0), "logsumexp axes=(0,)"),
    "with its axis": (lambda x: jax.nn.logsumexp(x, 0, keepdims=True), "logsumexp axes=(0,)"),
    "with both": (lambda x: jax.nn.logsumexp(x, (0, 1), keepdims=True), "logsumexp axes=(0, 1)"),
    "of all": (jax.nn.logsumexp, "logsumexp axes=(0, 1)"),
    "of each row": (jax.vmap(jax.nn.logsumexp), "logsumexp axes=(1,)"),
    "by hand": (lambda x: jnp.log(jnp.sum(jnp.exp(x), 0)), "logsumexp axes=(0,)"),
    "by hand, with its axis": (
        lambda x: jnp.log(jnp.exp(x).sum(1, keepdims=True)), "logsumexp axes=(1,)"
    ),
    "less the largest": (
        lambda x: (m := x.max(-1)) + jnp.log(jnp.exp(x - m[:, None]).sum(-1)), "logsumexp axes=(1,)"
    ),
    "less the largest, held": (
        lambda x: jnp.log(
            jnp.sum(jnp.exp(x - (m := jax.lax.stop_gradient(x.max(0, keepdims=True)))), 0, keepdims=True)
        ) + m,
        "logsumexp axes=(0,)",
    ),
}  # fmt: skip
NO_LOGSUMEXPS: dict[str, Callable[[Array], Array]] = {
    "one more": lambda x: jnp.log(1 + jnp.exp(x).sum(-1)),
    "in another base": lambda x: jnp.log2(jnp.exp2(x).sum(-1)),
    "with factors": lambda x: jnp.log(jnp.sum(2 * jnp.exp(x), -1)),
    "its sum is used": lambda x: jnp.log(t := jnp.exp(x).sum(-1)) + t,
}
ROUNDING = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 4e-2}
"""Of the examples, which round on the way to each value."""
NO_SOFTMAXES: dict[str, Callable[[Array], Array]] = {
    "one more": lambda x: (t := jnp.exp(x)) / (1 + t.sum(-1, keepdims=True)),
    "of two values": lambda x: jnp.exp(x) / jnp.exp(2 * x).sum(-1, keepdims=True),
    "its exponentials are used": lambda x: (t := jnp.exp(x)) / t.sum(-1, keepdims=True) + t,
    "in another base": lambda x: (t := jnp.exp2(x)) / t.sum(-1, keepdims=True),
}
MANY: dict[str, tuple[Callable[[Array], Array], list[str]]] = {
    "an inner value is used": (
        lambda x: jax.nn.sigmoid(x) * x + jax.nn.sigmoid(x)[::-1], ["scalar silu", "scalar logistic", "sum "]
    ),
    "not in the table": (lambda x: 2 * jnp.tanh(x) + 1, ["scalar tanh", "scale ", "sum ++c"]),
    "of something else": (lambda x: jax.nn.silu(2 * x), ["scale ", "scalar silu"]),
    "two arguments": (lambda x: jnp.where(x > x[::-1], 2 * x, x), ["scale ", "select x > y ? a : b"]),
}  # fmt: skip


def constraints(f: Callable[[Array], Array], x: Array = X) -> list[str]:
    """All but the loss and identities."""
    graph = pjp.constraint_graph(lambda x: pjp.equality(y := jnp.atleast_1d(f(x)), jnp.zeros(y.shape)))(x)
    kinds = [node.constraint for node in graph.nodes if node.constraint is not None]
    found = [f"{kind.kind} {kind.describe()}" for kind in kinds]
    return [text for text in found if not text.startswith(("loss", "identity"))]


@pytest.mark.parametrize("row", ONE)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_one_constraint(row: str, dtype: str) -> None:
    f, text = ONE[row]
    assert constraints(f, X.astype(dtype)) == [text]
    assert constraints(jax.jit(f), X.astype(dtype)) == [text]


@pytest.mark.parametrize("row", NORMS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_norms(row: str, dtype: str) -> None:
    f, text = NORMS[row]
    x = X.astype(dtype)
    assert constraints(f, x) == [text]
    assert constraints(jax.jit(f), x) == constraints(f, x)
    graph = pjp.constraint_graph(lambda x: pjp.equality(f(x), jnp.zeros(f(X).shape)))(x)
    (norm,) = (n.constraint for n in graph.nodes if isinstance(n.constraint, Normalize))
    if row != "flat":
        chex.assert_trees_all_close(norm.forward((3 * x,), ()), f(3 * x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("row", SOFTMAXES)
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_softmax(row: str, dtype: str) -> None:
    f, text = SOFTMAXES[row]
    x = X.astype(dtype)
    assert constraints(f, x) == [text]
    assert constraints(jax.jit(f), x) == [text]
    graph = pjp.constraint_graph(lambda x: pjp.equality(f(x), jnp.zeros(x.shape, dtype)))(x)
    (softmax,) = (n.constraint for n in graph.nodes if isinstance(n.constraint, Softmax))
    chex.assert_trees_all_close(softmax.forward((3 * x,), ()), f(3 * x), rtol=ROUNDING[dtype])


@pytest.mark.parametrize("row", LOGSUMEXPS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_logsumexp(row: str, dtype: str) -> None:
    f, text = LOGSUMEXPS[row]
    x = X.astype(dtype)
    assert constraints(f, x) == [text]
    assert constraints(jax.jit(f), x) == [text]
    graph = pjp.constraint_graph(lambda x: pjp.equality(y := jnp.atleast_1d(f(x)), jnp.zeros_like(y)))(x)
    (found,) = (n.constraint for n in graph.nodes if isinstance(n.constraint, LogSumExp))
    chex.assert_trees_all_close(
        found.forward((3 * x,), ()), f(3 * x).reshape(found.forward((x,), ()).shape), rtol=ROUNDING[dtype]
    )


@pytest.mark.parametrize("row", NO_LOGSUMEXPS)
def test_what_is_no_logsumexp(row: str) -> None:
    assert not any("logsumexp" in text for text in constraints(NO_LOGSUMEXPS[row]))


def test_a_logsumexp_with_its_axis_is_solved() -> None:
    def loss(x: Array) -> Array:
        return pjp.squared_error(jax.nn.logsumexp(x, 1, keepdims=True), jnp.array([[3.0], [0.0], [-4.0]]))

    for form in ("compressed", "expanded"):
        found = pjp.solve(loss, X, solver=pjp.AlternatingProjections(form=form), max_steps=300)
        assert jnp.sum(loss(found.params)) < 1e-6


@pytest.mark.parametrize("row", NO_SOFTMAXES)
def test_what_is_no_softmax(row: str) -> None:
    assert not any("softmax" in text for text in constraints(NO_SOFTMAXES[row]))


@pytest.mark.parametrize("row", NO_NORMS)
def test_what_is_no_norm(row: str) -> None:
    assert not any("normalize" in text for text in constraints(NO_NORMS[row]))


def test_norms_inside_loops_and_of_large_batches() -> None:
    """Samples are small whatever the size of the batch."""

    def f(x: Array) -> Array:
        norm = jax.vmap(_plain(eqx.nn.LayerNorm))
        return jax.lax.scan(lambda h, row: (norm(jnp.tanh(h + row)),) * 2, x[0], x)[1]

    x = jax.ShapeDtypeStruct((5, 2**22, 4), "float32")
    graph = pjp.constraint_graph(lambda x: pjp.equality(f(x), jnp.zeros(x.shape)))(x)
    assert sum(isinstance(node.constraint, Normalize) for node in graph.nodes) == 1


@pytest.mark.parametrize("row", MANY)
def test_several_constraints(row: str) -> None:
    f, texts = MANY[row]
    assert constraints(f) == texts


@pytest.mark.parametrize("row", [row for row in ONE if row != "where"])
def test_the_constraint_computes_the_function(row: str) -> None:
    f, _ = ONE[row]
    graph = pjp.constraint_graph(lambda x: pjp.equality(f(x), jnp.zeros(x.shape)))(X)
    (constraint,) = (n.constraint for n in graph.nodes if isinstance(n.constraint, Scalar))
    chex.assert_trees_all_close(constraint.forward((3 * X,), ()), f(3 * X), rtol=1e-6, atol=1e-12)


def attention(params: dict[str, Array], x: Array, target: Array) -> Array:
    """A softmax, a learned slope below zero, a normalised sum and overlapping pools."""
    h = jnp.tanh(x @ params["w"])
    weights = jax.nn.softmax(h @ params["query"], -1)
    bent = jnp.where(h >= 0, h, params["slope"] * h)
    pooled = jax.lax.reduce_window(bent, -jnp.inf, jax.lax.max, (1, 2), (1, 1), "SAME")
    mixed = pooled * jax.lax.rsqrt(jnp.mean(jnp.square(bent), -1, keepdims=True) + 0.1)
    return pjp.squared_error(jnp.cumsum(weights, -1) + mixed, target)


@pytest.mark.slow
def test_both_forms_of_a_network_of_many_kinds() -> None:
    shapes = ((3, 4), (4, 4), (4,), (5, 3), (5, 4))
    w, query, slope, x, target = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate(shapes))
    params = {"w": w, "query": query, "slope": slope}
    compressed, expanded = (
        pjp.solve(attention, params, x, target, solver=pjp.AlternatingProjections(form=form), max_steps=20)
        for form in ("compressed", "expanded")
    )
    chex.assert_trees_all_close(compressed.params, expanded.params, rtol=0, atol=1e-10)
    before, after = (jnp.sum(attention(p, x, target)) for p in (params, compressed.params))
    assert after < before
