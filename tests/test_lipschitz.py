"""Certified bounds: never below what the derivative shows, and what the table says they are."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jaxtyping import Array

import pjax_prim as pjp
from pjax_prim.primitives.curves import FUNCTIONS, curve

KEYS = jax.random.split(jax.random.key(0), 6)
W = [np.asarray(jax.random.normal(k, (5, 5))) for k in KEYS]
NORMS = [float(np.linalg.norm(w, 2)) for w in W]
KERNEL = np.asarray(jax.random.normal(KEYS[0], (3, 2, 3, 3)))
PICTURE = (2, 7, 7)
VECTOR = (5,)

Function = Callable[[Array], Any]


def convolved(
    x: Array, kernel: Any = KERNEL, strides: Any = (1, 1), padding: Any = "SAME", **more: Any
) -> Array:
    return lax.conv_general_dilated(x[None], jnp.asarray(kernel), strides, padding, **more)[0]


EXACT: dict[str, tuple[Function, tuple[int, ...], float]] = {
    "product": (lambda x: W[0] @ x, VECTOR, NORMS[0]),
    "product of a batch": (lambda x: x @ W[0] + 3, (4, 5), NORMS[0]),
    "stack of matrices": (lambda x: jnp.einsum("bi,bij->bj", x, jnp.stack(W[:2])), (2, 5), max(NORMS[:2])),
    "affine and relu": (lambda x: jax.nn.relu(W[0] @ x + 1), VECTOR, NORMS[0]),
    "chain": (lambda x: W[1] @ jnp.tanh(W[0] @ x), VECTOR, NORMS[0] * NORMS[1]),
    "skip": (lambda x: x + jax.nn.relu(W[0] @ x), VECTOR, 1 + NORMS[0]),
    "scaled": (lambda x: -0.25 * x / jnp.array([2.0, 4, 8, 16, 32]), VECTOR, 0.125),
    "sum": (jnp.sum, VECTOR, 5**0.5),
    "mean": (jnp.mean, VECTOR, 5**-0.5),
    "copies": (lambda x: jnp.broadcast_to(x, (3, 5)), VECTOR, 3**0.5),
    "gather": (lambda x: x[jnp.array([0, 1, 1, 1, 2])], VECTOR, 3**0.5),
    "parts": (lambda x: (x[:2], x[2:]), VECTOR, 2**0.5),
    "concatenation": (lambda x: jnp.concatenate([x, 2 * x]), VECTOR, 5**0.5),
    "leaky": (lambda x: jax.nn.leaky_relu(x, 3.0), VECTOR, 3.0),
    "written leaky": (lambda x: jnp.where(x > 0, x, 0.1 * x), VECTOR, 1.0),
    "sigmoid": (jax.nn.sigmoid, VECTOR, 0.25),
    "softmax": (lambda x: jax.nn.softmax(x), VECTOR, 0.5),
    "logsumexp": (lambda x: jax.nn.logsumexp(x), VECTOR, 1.0),
    "mask": (lambda x: jnp.where(jnp.arange(5) > 2, x, 1.0), VECTOR, 1.0),
    "held": (lambda x: lax.stop_gradient(x) + x, VECTOR, 2.0),
    "constant": (lambda x: jnp.ones(3), VECTOR, 0.0),
    "not of x alone": (lambda x: W[0] @ (W[1] @ jnp.ones(5)) + 0 * x, VECTOR, 0.0),
    "max pooling": (
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2), (1, 2, 2), "VALID"), PICTURE, 1.0,
    ),
    "overlapping pooling": (
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2), (1, 1, 1), "VALID"), PICTURE, 2.0,
    ),
    "1x1 convolution": (
        lambda x: convolved(x, KERNEL[:, :, :1, :1]), PICTURE, float(np.linalg.norm(KERNEL[:, :, 0, 0], 2)),
    ),
    "patches": (
        lambda x: convolved(x, KERNEL, (3, 3), "VALID"), PICTURE,
        float(np.linalg.norm(KERNEL.reshape(3, 18), 2)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_bounds(name: str) -> None:
    fn, shape, expected = EXACT[name]
    assert pjp.lipschitz_bound(fn, jnp.zeros(shape)) == pytest.approx(expected, rel=1e-9)


NETWORKS: dict[str, tuple[Function, tuple[int, ...], float]] = {
    "mlp": (eqx.nn.MLP(5, 3, 8, 2, key=KEYS[0]), VECTOR, 30.0),
    "gelu": (eqx.nn.MLP(5, 3, 8, 1, activation=jax.nn.gelu, key=KEYS[1]), VECTOR, 30.0),
    "layer norm": (lambda x: eqx.nn.LayerNorm(5, eps=0.1)(W[0] @ x), VECTOR, 1e9),
    "same": (convolved, PICTURE, 1.2),
    "padded": (lambda x: convolved(x, padding=((2, 2), (2, 2))), PICTURE, 1.2),
    "strides": (lambda x: convolved(x, strides=(2, 2)), PICTURE, 2.2),
    "dilated": (lambda x: convolved(x, rhs_dilation=(2, 2)), PICTURE, 1.6),
    "transposed": (lambda x: convolved(x, padding=((1, 1), (1, 1)), lhs_dilation=(2, 2)), PICTURE, 2.5),
    "groups": (lambda x: convolved(x, KERNEL[:2, :1], feature_group_count=2), PICTURE, 1.2),
    "mean pooling": (lambda x: eqx.nn.AvgPool2d(2, 1)(convolved(x)), PICTURE, 3.0),
    "residual": (lambda x: x + convolved(jax.nn.relu(convolved(x)), KERNEL.swapaxes(0, 1)), PICTURE, 4.0),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_never_below_the_derivative(name: str) -> None:
    """At random inputs; and not too far above it."""
    fn, shape, factor = NETWORKS[name]
    bound = pjp.lipschitz_bound(fn, jnp.zeros(shape))
    size = int(np.prod(shape))
    xs = jax.random.normal(KEYS[2], (4, size))
    slopes = jax.jit(jax.vmap(jax.jacobian(lambda x: fn(x.reshape(shape)).ravel())))(xs)
    steepest = max(np.linalg.norm(slope, 2) for slope in slopes)
    assert steepest <= bound <= factor * steepest


def test_convolutions_of_every_size() -> None:
    """Above the norm on a wide ring, which comes near that of the whole grid, and within 9% of it."""
    for seed, window in enumerate([(1,), (2,), (5,), (3, 2), (4, 4)]):
        kernel = np.random.default_rng(seed).standard_normal((2, 3, *window))
        spectrum = np.fft.fftn(kernel, [64] * len(window), range(2, kernel.ndim))
        norm = np.linalg.svd(np.moveaxis(spectrum, (0, 1), (-2, -1)), compute_uv=False).max()

        def fn(x: Array, kernel: Any = kernel, window: Any = window) -> Array:
            return convolved(x, kernel, (1,) * len(window))

        bound = pjp.lipschitz_bound(fn, jax.ShapeDtypeStruct((3, *[6] * len(window)), "float64"))
        assert norm * (1 - 1e-12) <= bound <= 1.09 * norm


PARAMETERS = {"clamp": (-0.5, 2.0), "elu": (1.0, 1.5, 0.5), "leaky_relu": (-1.5,)}


@pytest.mark.parametrize("name", [name for name, row in FUNCTIONS.items() if row.steepest is not None])
def test_slopes(name: str) -> None:
    """The steepest slope on a grid is no more, and all but as much."""
    parameters = PARAMETERS.get(name, ())
    x = jnp.linspace(-40, 40, 160_001)
    steps = jnp.abs(jnp.diff(curve(name, parameters).value(x))) / jnp.diff(x)
    steepest = FUNCTIONS[name].steepest
    assert steepest is not None
    assert 0.999 < float(jnp.max(steps)) / steepest(*parameters) <= 1 + 1e-9


def test_half_precision_and_trees() -> None:
    def fn(x: dict[str, Array]) -> Array:
        return (jnp.asarray(W[0], "bfloat16") @ x["a"]).astype("float32") + x["b"][:5]

    given = {"a": jnp.ones(5, "bfloat16"), "b": jnp.ones(6, "float32")}
    rounded = np.asarray(jnp.asarray(W[0], "bfloat16"), np.float64)
    assert pjp.lipschitz_bound(fn, given) == pytest.approx(1 + np.linalg.norm(rounded, 2), rel=1e-9)


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (
            lambda x: x * x,
            r"test_lipschitz.py:\d+.*: mul has no finite Lipschitz bound: both factors depend on x",
        ),
        (lambda x: jnp.outer(x, x) @ x, "both factors depend on x"),
        (lambda x: jnp.ones(5) / x, "div has no finite Lipschitz bound: the divisor depends on x"),
        (jnp.exp, "exp has no finite Lipschitz bound: its slope is not bounded, or not known here"),
        (jnp.square, "square has no finite"),
        (jnp.sqrt, "sqrt has no finite"),
        (jnp.sign, "sign has no finite"),
        (lambda x: eqx.nn.LayerNorm(5, eps=0.0)(x), "has no finite Lipschitz bound"),
        (
            lambda x: lax.scan(lambda c, w: (w @ c, 0.0), x, jnp.stack(W))[0],
            "a loop that carries what depends",
        ),
    ],
)
def test_without_a_bound(fn: Function, message: str) -> None:
    with pytest.raises(pjp.GraphError, match=message):
        pjp.lipschitz_bound(fn, jnp.ones(5))


def test_errors() -> None:
    with pytest.raises(pjp.ArgumentError, match=r"x\['a'\]: expected floating-point arrays, given 3"):
        pjp.lipschitz_bound(lambda x: x["a"], {"a": 3})
    with pytest.raises(pjp.ArgumentError, match="fn: expected one whose arrays are known, given traced ones"):
        jax.jit(lambda w: pjp.lipschitz_bound(lambda x: w @ x, jnp.ones(5)))(jnp.asarray(W[0]))
