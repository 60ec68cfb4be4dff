"""Displacements of programs as users write them, beside their gradients."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

import pjax_prim as pjp

K = jax.random.key
X, W, Y = (jax.random.normal(K(i), s, "float32") for i, s in enumerate([(8, 5), (5, 3), (8, 3)]))
LABELS = jnp.arange(8) % 3
MASK = jnp.array([1.0, 1, 0, 1, 0, 0, 1, 1], "float32")


def error(x: Array, y: Array = Y) -> Array:
    return jnp.mean(pjp.squared_error(x, y))


def clipped() -> Callable[[Array], Array]:
    """An identity whose author clips its gradient."""
    function: Any = jax.custom_vjp(lambda x: x)
    function.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -1e-2, 1e-2),))
    return function


def contrastive(w: Array) -> Array:
    a = X @ w
    a = a / jnp.linalg.norm(a, axis=-1, keepdims=True)
    return -jnp.mean(jnp.diag(jax.nn.log_softmax(a @ a.T / 0.5)[:, ::-1]))


def stable(w: Array) -> Array:
    """A bounded loop of Equinox's, with a condition on data."""
    return eqx.internal.while_loop(
        lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, X @ w), kind="checkpointed", max_steps=4
    )[1]


def bounded(w: Array) -> Array:
    return eqx.internal.while_loop(
        lambda c: jnp.sum(c) < 50.0, lambda c: 1.5 * c, X @ w, kind="bounded", max_steps=6
    )


def scanned(w: Array) -> Array:
    def body(h: Array, x: Array) -> tuple[Array, Array]:
        h = jnp.tanh(h + x @ w)
        return h, jax.lax.cond(h[0] > 0, lambda h: 2 * h, lambda h: -h, h)

    return jax.lax.scan(jax.checkpoint(body), jnp.zeros(3, "float32"), X)[1]


def losses_in_a_scan(w: Array) -> Array:
    def body(total: Array, row: Any) -> tuple[Array, None]:
        x, y, weight = row
        return total + weight * pjp.squared_error(x @ w, y), None

    return jax.lax.scan(body, jnp.zeros((), "float32"), (X, Y, MASK))[0] / 5


def spectral(w: Array) -> Array:
    u = jnp.ones(5, "float32")
    for _ in range(3):
        v = w.T @ u
        v = v / jnp.linalg.norm(v)
        u = w @ v
        u = u / jnp.linalg.norm(u)
    return X @ (w / (u @ w @ v))


def penalty(w: Array) -> Array:
    """A loss that contains a gradient."""
    inside = jax.vmap(jax.grad(lambda x: jnp.sum(jnp.tanh(x @ w))))(X)
    return error(X @ w) + 0.1 * jnp.mean(jnp.square(jnp.sum(jnp.square(inside), -1) - 1))


FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "masked": lambda w: jnp.sum(MASK * pjp.squared_error(X @ w, Y)) / jnp.sum(MASK),
    "negative": lambda w: -error(X @ w),
    "two losses": lambda w: 0.1 * error(X @ w) + 3 * jnp.mean(pjp.cross_entropy(X @ w, LABELS)),
    "two lengths": lambda w: error(X @ w) + error(X[:1] @ w, Y[:1]),
    "sum": lambda w: jnp.sum(pjp.squared_error(X @ w, Y)),
    "regulariser": lambda w: error(X @ w) + 0.01 * jnp.sum(w**2),
    "not linear": lambda w: jnp.exp(jnp.mean(pjp.cross_entropy(X @ w, LABELS))),
    "by hand": lambda w: jnp.mean((jnp.tanh(X @ w) - Y) ** 2),
    "optax": lambda w: (
        optax.huber_loss(X @ w, Y).mean()
        + optax.softmax_cross_entropy_with_integer_labels(X @ w, LABELS).mean()
    ),
    "contrastive": contrastive,
    "quick gelu": lambda w: error(X @ w * jax.nn.sigmoid(1.702 * (X @ w))),
    "clip": lambda w: error(jnp.clip(300 * (X @ w), 0, 255) / 300),
    "where": lambda w: error(jnp.where(X @ w > 0.5, 0.5, X @ w)),
    "checkpoint": lambda w: error(jax.checkpoint(lambda v: jnp.tanh(v @ w))(X)),
    "policy": lambda w: error(
        jax.checkpoint(lambda v: jnp.tanh(v @ w), policy=jax.checkpoint_policies.dots_saveable)(X)
    ),
    "cond": lambda w: error(jax.lax.cond(w[0, 0] > 0, lambda h: 2 * h, lambda h: 3 * h, X @ w)),
    "switch": lambda w: error(jax.lax.switch(2, [jnp.sin, jnp.cos, jnp.tanh], X @ w)),
    "while": lambda w: error(stable(w)),
    "bounded while": lambda w: error(bounded(w) / 50),
    "scan": lambda w: error(scanned(w)),
    "losses in a scan": losses_in_a_scan,
    "custom vjp": lambda w: error(clipped()(X @ w)),
    "custom jvp": lambda w: error(jax.nn.softplus(X @ w)),
    "identities": lambda w: error(jax.device_put(checkpoint_name(jnp.tanh(X @ w), "h"))),
    "fft": lambda w: error(jnp.fft.irfft(jnp.fft.rfft(X @ w, axis=0) * (1 + 0.3j), n=8, axis=0)),
    "sort": lambda w: error(jnp.sort(X @ w, -1)),
    "top k": lambda w: error(jax.lax.top_k(X @ w, 3)[0]),
    "solve": lambda w: error(jnp.linalg.solve(w.T @ w + jnp.eye(3, dtype="float32"), Y.T).T),
    "slogdet": lambda w: jnp.linalg.slogdet(w.T @ w)[1],
    "associative scan": lambda w: error(jax.lax.associative_scan(jnp.multiply, jnp.tanh(X @ w))),
    "spectral norm": lambda w: error(spectral(w)),
    "gradient inside": penalty,
    "jit inside": lambda w: error(jax.jit(lambda w: jnp.tanh(X @ w))(w)),
    "vmapped": lambda w: jnp.mean(jax.vmap(lambda x, y: pjp.squared_error(jnp.tanh(x @ w), y))(X, Y)),
    "convolution": lambda w: jnp.mean(
        jnp.square(jax.lax.conv(X[None, None], w[None, None, :2, :2], (1, 1), "SAME") - 0.3)
    ),
    "einsum": lambda w: jnp.mean(jnp.square(jnp.einsum("bi,ij,kj->bk", X, w, w) - 1)),
    "attention": lambda w: error(jax.nn.softmax((X @ w) @ (X @ w).T) @ (X @ w)),
}


@contextlib.contextmanager
def optimised() -> Iterator[None]:
    """Programs are compiled as for users."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def agree(direction: Any, gradient: Any, cosine: float = 0.99, length: float = 1.1) -> None:
    chex.assert_trees_all_equal_shapes_and_dtypes(direction, gradient)
    for path, g in jax.tree.leaves_with_path(gradient):
        d = dict(jax.tree.leaves_with_path(direction))[path]
        d, g = (np.asarray(v, np.complex128).ravel() for v in (d, g))
        if not np.any(g):
            assert not np.any(d), path
            continue
        sizes = np.linalg.norm(d), np.linalg.norm(g)
        assert np.real(np.vdot(d, g)) / (sizes[0] * sizes[1]) > cosine, path
        assert 1 / length < sizes[0] / sizes[1] < length, path


@pytest.mark.parametrize("name", FUNCTIONS)
def test_value_and_direction(name: str) -> None:
    fn = FUNCTIONS[name]
    value, direction = eqx.filter_jit(pjp.value_and_displacement(fn))(W)
    expected, gradient = eqx.filter_jit(eqx.filter_value_and_grad(fn))(W)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    agree(direction, gradient)


@pytest.mark.parametrize("name", ["scan", "cond", "attention", "while", "convolution", "not linear"])
def test_eager_is_jitted(name: str) -> None:
    fn = FUNCTIONS[name]
    eager, jitted = (f(W) for f in (pjp.displacement(fn), jax.jit(pjp.displacement(fn))))
    chex.assert_trees_all_close(eager, jitted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["masked", "negative", "two losses", "two lengths", "scan", "losses in a scan", "vmapped", "cond"]
)
def test_finite_steps_that_are_small_agree_too(name: str) -> None:
    fn = FUNCTIONS[name]
    agree(jax.jit(pjp.displacement(fn, lam=1e-4))(W), jax.grad(fn)(W), cosine=0.95, length=2)


def test_examples_do_not_depend_on_one_another() -> None:
    model = eqx.nn.MLP(5, 3, 7, 2, activation=jnp.tanh, key=K(0))
    direct = eqx.filter_jit(
        pjp.displacement(lambda m, x, y: jnp.mean(pjp.cross_entropy(jax.vmap(m)(x), y)), weight=0.5)
    )
    whole = direct(model, X, LABELS)
    parts = [direct(model, X[i : i + 2], LABELS[i : i + 2]) for i in (0, 2, 4, 6)]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 4, *parts)
    chex.assert_trees_all_close(jax.tree.leaves(whole), jax.tree.leaves(mean), rtol=2e-4, atol=1e-6)


def test_products_are_damped_row_by_row() -> None:
    """Against the formula, one pair of a row and a column at a time."""
    weight = 3.0
    x, w, v = (np.asarray(jax.random.normal(K(i), s)) for i, s in enumerate([(4, 3), (3, 5), (5, 2)]))
    coefficients = np.asarray(jax.random.normal(K(9), (4, 2)))
    direction = pjp.displacement(lambda p: jnp.sum(coefficients * (x @ p[0] @ p[1])), weight=weight)((w, v))
    h = x @ w

    def share(a: np.ndarray) -> float:
        return float(a @ a / (weight * (1 + a @ a)))

    to_h, to_v, to_w = np.zeros_like(h), np.zeros_like(v), np.zeros_like(w)
    for b in range(4):
        for m in range(2):
            t = coefficients[b, m] / (1 + share(h[b]) + share(v[:, m]))
            to_h[b] += t * v[:, m]
            to_v[:, m] += t * h[b]
        for m in range(5):  # data do not move
            to_w[:, m] += to_h[b, m] / (1 + share(x[b])) * x[b]
    np.testing.assert_allclose(direction[1], to_v, rtol=1e-6)
    np.testing.assert_allclose(direction[0], to_w, rtol=1e-6)


def test_auxiliary_output() -> None:
    def fn(m: Any, x: Array, y: Array) -> Any:
        out = jax.vmap(m)(x)
        static = {"name": "net", "f": jnp.tanh, "n": 3, "names": np.array(["a", "b"])}
        return jnp.mean(pjp.cross_entropy(out, y)), {"logits": out, **static}

    model = eqx.nn.MLP(5, 3, 7, 2, key=K(0))
    (value, aux), direction = pjp.value_and_displacement(fn, has_aux=True)(model, X, LABELS)
    (expected, wanted), gradient = eqx.filter_value_and_grad(fn, has_aux=True)(model, X, LABELS)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(aux["logits"], wanted["logits"], rtol=1e-6)
    assert (aux["name"], aux["f"], aux["n"]) == ("net", jnp.tanh, 3)
    assert type(aux["names"]) is type(wanted["names"]) is np.ndarray
    agree(direction, gradient)
    alone, again = pjp.displacement(fn, has_aux=True)(model, X, LABELS)
    chex.assert_trees_all_close(alone, direction)
    assert again["name"] == "net"


def test_nans_that_are_not_chosen_are_none() -> None:
    """The variance of nothing is NaN, and stands in the program of every variance."""
    direct = pjp.displacement(lambda w: error(X @ w / jnp.sqrt(jnp.var(X @ w, 0) + 0.1)))
    with jax.debug_nans(True):
        chex.assert_trees_all_close(direct(W), jax.jit(direct)(W), rtol=1e-4, atol=1e-6)
        with pytest.raises(FloatingPointError):
            pjp.displacement(lambda w: error(jnp.log(-jnp.abs(X @ w))))(W)


def test_an_array_means_its_mean() -> None:
    fn = lambda w: pjp.squared_error(X @ w, Y)  # noqa: E731
    value, direction = pjp.value_and_displacement(fn)(W)
    chex.assert_trees_all_close(value, fn(W))
    agree(direction, jax.grad(lambda w: jnp.mean(fn(w)))(W))


def test_complex_and_unused_parameters() -> None:
    params = {"a": (W + 1j * W[::-1]).astype("complex64"), "b": W, "unused": jnp.ones(2, "float32")}

    def fn(p: Any) -> Array:
        return jnp.mean(jnp.abs(X @ p["a"]) ** 2) + error(X @ p["b"])

    direction, gradient = pjp.displacement(fn)(params), jax.grad(fn)(params)
    agree(direction, gradient)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_compute_with_single_parameters(dtype: str) -> None:
    def fn(w: Array) -> Array:
        return error(jnp.tanh(X.astype(dtype) @ w.astype(dtype)).astype("float32"))

    direction = pjp.displacement(fn)(W)
    assert direction.dtype == jnp.float32
    agree(direction, jax.grad(fn)(W), cosine=0.999)


def test_closures_statics_and_bound_methods() -> None:
    class Problem:
        scale = 1.0

        def loss(self, w: Array, k: Any) -> Array:
            return error((k / 2 if isinstance(k, float) else k // 2) * self.scale * (X @ w))

    problem = Problem()
    for scale in (1.0, 3.0):
        problem.scale = scale
        for k in (3, 3.0):
            agree(pjp.displacement(problem.loss)(W, k), eqx.filter_grad(problem.loss)(W, k))


def test_derivatives_of_a_direction() -> None:
    """A direction can be differentiated in both modes."""
    direct = pjp.displacement(lambda w: error(jnp.tanh(X @ w)))
    _, tangent = jax.jvp(direct, (W,), (W,))
    _, expected = jax.jvp(jax.grad(lambda w: error(jnp.tanh(X @ w))), (W,), (W,))
    agree(tangent, expected)

    def square(w: Array) -> Array:
        return jnp.sum(direct(w) ** 2)

    slope = jnp.vdot(jax.grad(square)(W), jnp.cos(W))
    change = square(W + 1e-2 * jnp.cos(W)) - square(W - 1e-2 * jnp.cos(W))
    np.testing.assert_allclose(slope, change / 2e-2, rtol=2e-3)


def test_memory_of_a_checkpoint() -> None:
    """What a checkpoint does not keep for a gradient is not kept for a displacement."""
    stack = jax.random.normal(K(0), (32, 64, 64)) / 8
    x = jax.random.normal(K(1), (256, 64))

    def fn(stack: Array, policy: bool) -> Array:
        def layer(h: Array, w: Array) -> tuple[Array, None]:
            for _ in range(4):
                h = jnp.sin(h @ w)
            return h, None

        return jnp.mean(jax.lax.scan(jax.checkpoint(layer) if policy else layer, x, stack)[0] ** 2)

    def bytes_of(transform: Any, policy: bool) -> int:
        compiled = jax.jit(lambda s: transform(lambda s: fn(s, policy))(s)).lower(stack).compile()
        return int(compiled.memory_analysis().temp_size_in_bytes)

    kept, dropped = (bytes_of(pjp.displacement, policy) for policy in (False, True))
    assert dropped < kept / 2
    assert dropped < 1.15 * bytes_of(jax.grad, True)


def test_nothing_of_the_size_of_an_output_is_kept_for_the_damping() -> None:
    """Between the passes there are lengths of rows only."""
    x = jax.random.normal(K(1), (8, 32, 16), "float32")
    sizes = (16, 64), (64, 16)
    layers = [
        [eqx.nn.Linear(*size, dtype="float32", key=K(2 * i + j)) for j, size in enumerate(sizes)]
        for i in range(4)
    ]

    def residual(layers: Any) -> Array:
        h = x
        for first, second in layers:
            h = h + jax.vmap(jax.vmap(lambda v, a=first, b=second: b(jax.nn.gelu(a(v)))))(h)
        return jnp.mean(h**2)

    def bytes_of(transform: Any) -> int:
        arrays, static = eqx.partition(layers, eqx.is_array)
        direct = transform(lambda arrays: residual(eqx.combine(arrays, static)))
        with optimised():
            compiled = jax.jit(direct).lower(arrays).compile()
        return int(compiled.memory_analysis().temp_size_in_bytes)

    assert bytes_of(pjp.displacement) < 1.15 * bytes_of(jax.grad)
