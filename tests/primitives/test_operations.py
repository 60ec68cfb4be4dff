"""Operations that users call inside ordinary models, and parts of solver steps."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pjax_prim as pjp

from .operations import OPERATIONS, Operation, logits_and_labels, normal

LOSSES = [row for row in OPERATIONS if row.operands is logits_and_labels]
DIFFERENTIABLE = [row for row in OPERATIONS if not row.definition.chooses]

every_operation = pytest.mark.parametrize("row", OPERATIONS, ids=str)
every_loss = pytest.mark.parametrize("row", LOSSES, ids=str)


@cache
def plain(row: Operation) -> Callable[..., jax.Array]:
    return jax.jit(row.plain)


@every_operation
def test_value(row: Operation) -> None:
    operands = row.operands(8)
    expected = plain(row)(*operands)
    for apply in (row.apply, jax.jit(row.apply), jax.vmap(row.apply)):
        np.testing.assert_allclose(apply(*operands), expected, rtol=1e-12, atol=1e-15)


@every_operation
def test_vmap_of_vmap(row: Operation) -> None:
    first, *rest = row.operands(8)

    @jax.jit
    def mapped(first: Any, *rest: Any) -> tuple[Any, Any]:
        nested = [x.reshape(2, 4, *x.shape[1:]) for x in (first, *rest)]
        shared = jax.vmap(row.apply, (0, *[None] * len(rest)))(first, *(x[0] for x in rest)) if rest else None
        return jax.vmap(jax.vmap(row.apply))(*nested), shared

    nested, shared = map(np.asarray, mapped(first, *rest))
    close = dict(rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(nested.reshape(8, *nested.shape[2:]), plain(row)(first, *rest), **close)
    if rest:
        repeated = [np.broadcast_to(x[:1], x.shape) for x in rest]
        np.testing.assert_allclose(shared, plain(row)(first, *repeated), **close)


@pytest.mark.parametrize("row", DIFFERENTIABLE, ids=str)
@pytest.mark.parametrize(
    "transform",
    # Values that are not jitted are those that are, by `test_value`; derivatives are traced alike.
    [pytest.param(jax.jit, id="jit"), pytest.param(lambda f: f, id="eager", marks=pytest.mark.slow)],
)
def test_derivatives(row: Operation, transform: Callable[..., Any]) -> None:
    first, *rest = row.operands(8)
    tangent = jnp.cos(first)

    def total(apply: Callable[..., jax.Array]) -> Callable[[jax.Array], jax.Array]:
        return lambda x: jnp.sum(jnp.sin(apply(x, *rest)))

    steps = ("quantize", "one_hot_argmax", "top_k_mask")
    expected = 0 * first if row.name in steps else jax.jit(jax.grad(total(row.plain)))(first)
    gradient = transform(jax.grad(total(row.apply)))(first)
    np.testing.assert_allclose(gradient, expected, rtol=1e-11, atol=1e-13)
    forward = transform(lambda x: jax.jvp(total(row.apply), (x,), (tangent,))[1])(first)
    np.testing.assert_allclose(forward, jnp.vdot(expected, tangent), rtol=1e-10, atol=1e-13)
    per_row = jax.jit(jax.vmap(jax.grad(lambda x, *r: jnp.sum(jnp.sin(row.apply(x, *r))))))(first, *rest)
    np.testing.assert_allclose(per_row, expected, rtol=1e-11, atol=1e-13)


def test_second_derivatives() -> None:
    x, y = (operand[0] for operand in logits_and_labels(1))
    p = jax.nn.softmax(x)
    hessian = jax.hessian(lambda x: pjp.cross_entropy(x, y))(x)
    np.testing.assert_allclose(hessian, jnp.diag(p) - jnp.outer(p, p), atol=1e-12)


def assert_same(actual: jax.Array, expected: jax.Array) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-14)


@every_loss
def test_integer_labels_are_one_hot(row: Operation) -> None:
    logits, labels = row.operands(8)
    integers = jnp.argmax(labels, -1)
    expected = row.apply(logits, labels)
    for dtype in ("int32", "uint8", "int64"):
        assert_same(row.apply(logits, integers.astype(dtype)), expected)
    for other in (labels.astype(bool), labels.astype("int32"), np.asarray(labels)):
        assert_same(row.apply(logits, other), expected)
    assert_same(jax.vmap(row.apply)(logits, integers), expected)
    assert_same(jax.jit(row.apply)(logits, integers), expected)
    assert_same(row.apply(logits[0], int(integers[0])), expected[0])
    batches = row.apply(logits.reshape(2, 4, 5), integers.reshape(2, 4))
    assert_same(batches, expected.reshape(2, 4))
    mesh = jax.make_mesh((4,), ("data",))
    with jax.set_mesh(mesh):
        spread = [jax.device_put(x, jax.NamedSharding(mesh, jax.P("data"))) for x in (logits, integers)]
        assert jax.jit(row.apply)(*spread).sharding.spec == jax.P("data")


@every_loss
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_losses_keep_the_dtype(row: Operation, dtype: str) -> None:
    logits, labels = row.operands(8)
    result = row.apply(logits.astype(dtype), labels)
    assert result.dtype == dtype
    assert row.apply(logits.astype(dtype), jnp.argmax(labels, -1)).dtype == dtype
    rounded = logits.astype(dtype).astype("float64")
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(result.astype("float64"), row.plain(rounded, labels), rtol=eps)


def test_the_step_does_not_enter_the_value() -> None:
    logits, labels = logits_and_labels(4)
    for loss in (pjp.cross_entropy, pjp.squared_error):
        np.testing.assert_array_equal(loss(logits, labels, lam=0.1), loss(logits, labels, lam=10.0))


def test_cross_entropy_of_huge_logits() -> None:
    logits = jnp.array([3e38, -3e38, 0.0], "float32")
    assert pjp.cross_entropy(logits, 0) == 0
    gradient = jax.grad(lambda x: pjp.cross_entropy(x, 0))(logits)
    np.testing.assert_array_equal(gradient, [0, 0, 0])


def test_sum_relu_broadcasts() -> None:
    x, bias, shift = normal(4, 3), normal(3), 0.5
    np.testing.assert_allclose(pjp.sum_relu(x, bias, shift), jax.nn.relu(x + bias + shift), rtol=1e-15)
    gradient = jax.grad(lambda b: pjp.sum_relu(x, b).sum())(bias)
    np.testing.assert_array_equal(gradient, jnp.sum(x + bias > 0, 0))


def test_levels_of_the_quantizer() -> None:
    x = jnp.linspace(-3, 3, 1001)
    for levels, scale in ((2, 1.0), (3, 0.5), (17, 2.0)):
        values = np.unique(pjp.quantize(x, levels, scale))
        np.testing.assert_allclose(values, np.linspace(-scale, scale, levels), atol=1e-15)


def test_optax_trains_with_the_losses() -> None:
    """The same function that a constraint graph is made of is a loss for gradient descent."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((64, 4)))
    labels = jnp.asarray((x[:, 0] > 0).astype("int32"))

    def loss(params: dict[str, jax.Array]) -> jax.Array:
        hidden = pjp.sum_relu(x @ params["w"], params["b"])
        return jnp.mean(pjp.cross_entropy(hidden @ params["out"], labels))

    params: Any = {"w": 0.5 * normal(4, 8), "b": jnp.zeros(8), "out": 0.5 * normal(8, 2)}
    optimiser = optax.adam(0.05)
    state = optimiser.init(params)
    start = loss(params)

    @jax.jit
    def step(params: Any, state: Any) -> tuple[Any, Any]:
        updates, state = optimiser.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    for _ in range(50):
        params, state = step(params, state)
    assert loss(params) < 0.2 * start
