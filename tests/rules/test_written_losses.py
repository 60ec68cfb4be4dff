"""Losses that are written out, or come from optax, are those of the library with the same values."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from jaxtyping import Array

import pjax_prim as pjp
from pjax_prim.graph.ir import closure, evaluate
from pjax_prim.graph.program import make_program, trace
from pjax_prim.graph.trace import flatten
from pjax_prim.graph.written_losses import write_losses
from pjax_prim.rules import is_loss

K = jax.random.key
X, Y = jax.random.normal(K(0), (5, 4), "float32"), jax.random.normal(K(1), (5, 4), "float32")
CLASSES = jnp.array([3, 0, -1, 2, 1], "int32")
SOFT = jax.nn.softmax(Y)
log_softmax = jax.nn.log_softmax

CROSS_ENTROPIES: dict[str, Callable[[Array], Any]] = {
    "optax": lambda x: optax.softmax_cross_entropy_with_integer_labels(x, CLASSES).mean(),
    "optax, one by one": lambda x: jnp.mean(
        jax.vmap(optax.softmax_cross_entropy_with_integer_labels)(x, CLASSES)
    ),
    "optax, sequences": lambda x: optax.softmax_cross_entropy_with_integer_labels(x[None], CLASSES[None]),
    "optax, weights": lambda x: optax.softmax_cross_entropy(x, SOFT).mean(),
    "optax, one-hot": lambda x: jnp.mean(optax.softmax_cross_entropy(x, jax.nn.one_hot(CLASSES, 4))),
    "optax, bfloat16": lambda x: optax.softmax_cross_entropy(x.astype("bfloat16"), SOFT.astype("bfloat16")),
    "rows": lambda x: -jnp.mean(log_softmax(x)[jnp.arange(5), CLASSES]),
    "a column": lambda x: -jnp.mean(jnp.take_along_axis(log_softmax(x), CLASSES[:, None], 1)),
    "one by one": lambda x: -jnp.mean(jax.vmap(lambda x, t: log_softmax(x)[t])(x, CLASSES)),
    "weights": lambda x: -jnp.sum(SOFT * log_softmax(x)) / 5,
    "weights, one by one": lambda x: jax.vmap(lambda x, t: -(t * log_softmax(x)).sum())(x, SOFT).sum(),
    "logsumexp": lambda x: jnp.mean(jax.nn.logsumexp(x, -1) - x[jnp.arange(5), CLASSES]),
    "as in Equinox's examples": lambda x: (
        -jnp.mean(jnp.take_along_axis(jax.vmap(log_softmax)(x), jnp.expand_dims(CLASSES, 1), axis=1))
    ),
    "a reshaped column": lambda x: (
        -jnp.mean(jnp.take_along_axis(log_softmax(x), CLASSES.reshape(-1, 1), axis=1)[:, 0])
    ),
    "some": lambda x: jnp.sum(
        jnp.where(CLASSES > 1, optax.softmax_cross_entropy_with_integer_labels(x, CLASSES), 0)
    ),
}
SQUARED_ERRORS: dict[str, Callable[[Array], Any]] = {
    "mean": lambda x: jnp.mean((x - Y) ** 2),
    "exchanged": lambda x: jnp.sum(jnp.square(Y - x), -1).mean(),
    "optax.squared_error": lambda x: optax.squared_error(x, Y).mean(),
    "optax.l2_loss": lambda x: optax.l2_loss(x, Y),
    "of a number": lambda x: jnp.mean((x - 1.5) ** 2),
    "of a row": lambda x: jnp.mean((x - Y[0]) ** 2),
    "no target": lambda x: jnp.sum(x**2),
    "one by one": lambda x: jnp.mean(jax.vmap(lambda x, y: jnp.sum((x - y) ** 2))(x, Y)),
    "weights": lambda x: 0.1 * jnp.sum(jnp.abs(Y) * (x - Y) ** 2),
}  # fmt: skip
BITS = (Y > 0).astype("float32")
OTHERS: dict[str, tuple[str, Callable[[Array], Any]]] = {
    "optax.kl_divergence": (
        "kl_divergence", lambda x: optax.kl_divergence(log_softmax(x), SOFT.astype(x.dtype)).mean()
    ),
    "optax.sigmoid_binary_cross_entropy": (
        "binary_cross_entropy", lambda x: optax.sigmoid_binary_cross_entropy(x, BITS).mean()
    ),
    "bits": ("binary_cross_entropy", lambda x: optax.sigmoid_binary_cross_entropy(x, Y > 0).sum()),
    "softplus": (
        "binary_cross_entropy", lambda x: jnp.mean(jax.nn.softplus(x) - BITS.astype(x.dtype) * x)
    ),
    "optax.huber_loss": ("huber", lambda x: optax.huber_loss(x, Y.astype(x.dtype)).mean()),
    "another delta": ("huber", lambda x: jnp.sum(optax.huber_loss(x, Y.astype(x.dtype), delta=0.3), -1)),
    "no target": ("huber", lambda x: optax.huber_loss(x)),
    "absolute error": ("absolute_error", lambda x: jnp.mean(jnp.abs(x - Y.astype(x.dtype)))),
    "exchanged": ("absolute_error", lambda x: jnp.mean(jnp.abs(Y.astype(x.dtype) - x))),
    "L1": ("absolute_error", lambda x: 0.1 * jnp.sum(jnp.abs(x))),
}  # fmt: skip
NO_CROSS_ENTROPIES: dict[str, Callable[[Array], Any]] = {
    "along the other axis": lambda x: jnp.sum(SOFT * log_softmax(x, 0), -1),
    "of other rows": lambda x: log_softmax(x)[jnp.arange(5)[::-1], CLASSES],
    "of a product": lambda x: jnp.exp(log_softmax(x)[jnp.arange(5), CLASSES]),
    "of what is trained": lambda x: jnp.sum(x * log_softmax(x), -1),
}


def losses(f: Callable[[Array], Any], x: Array, name: str) -> int:
    """How many losses of a name stand for those in a function, which stays the same function."""
    program, captured = make_program(trace(lambda x: [f(x)], x), 1, ["x"], 1)
    flat = flatten(program)
    written = write_losses(flat, closure(set(flat.parameters), flat.equations), is_loss)
    environment = {**dict(zip(flat.captured, captured, strict=True)), flat.parameters[0]: x}
    evaluate(written.equations, environment)
    expected = f(x)
    tolerance = 4 * max(float(jnp.finfo(dtype).eps) for dtype in (x.dtype, expected.dtype))
    chex.assert_trees_all_close(
        environment[written.outputs[0]].astype("float64"), expected.astype("float64"), rtol=tolerance
    )
    return sum(x.primitive.name == f"pjax_{name}" for x in written.equations)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("row", CROSS_ENTROPIES)
def test_cross_entropies(row: str, dtype: str) -> None:
    assert losses(CROSS_ENTROPIES[row], X.astype(dtype), "cross_entropy") == 1


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("row", SQUARED_ERRORS)
def test_squared_errors(row: str, dtype: str) -> None:
    assert losses(SQUARED_ERRORS[row], X.astype(dtype), "squared_error") == 1


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("row", OTHERS)
def test_other_losses(row: str, dtype: str) -> None:
    name, function = OTHERS[row]
    assert losses(function, X.astype(dtype), name) == 1


@pytest.mark.parametrize("row", NO_CROSS_ENTROPIES)
def test_what_is_no_cross_entropy(row: str) -> None:
    assert losses(NO_CROSS_ENTROPIES[row], X, "cross_entropy") == 0


def test_squares_that_something_else_reads_are_no_losses() -> None:
    """The nearest prototype: log-sum-exp reads the squares, too."""

    def f(x: Array) -> Array:
        logits = -((x[:, None] - Y[None, :, :1]) ** 2).sum(-1)
        return jnp.mean(jnp.log(jnp.sum(jnp.exp(logits), -1)) - logits[:, 0])

    assert losses(f, X, "squared_error") == 0


def test_squares_inside_a_network_are_no_losses() -> None:
    def f(w: Array) -> Array:
        return pjp.squared_error(jnp.tanh((X @ w - Y) ** 2), Y)

    graph = pjp.constraint_graph(f)(jnp.eye(4, dtype="float32"))
    assert len(graph.losses) == 1
