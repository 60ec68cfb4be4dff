"""Threshold neurons, y = sign(w . x), and their projection with a margin."""

import math
from functools import partial

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..errors import ArgumentError
from . import _arguments as arguments
from ._definition import define
from .dot import (
    Root,
    Solve,
    coefficients,
    degenerate_size,
    differentiable_multiplier,
    multiplier,
    row_dot,
    square_root,
)

_PRECISION = {"float32": 2.0**30, "float64": 2.0**60}
"""How heavy the output of the dot projection is made: its target is then met to rounding."""


def _reference(
    w: Array, x: Array, y: Array, *, margin: float, solve: Solve = multiplier, root: Root = jnp.sqrt
) -> tuple[Array, Array, Array]:
    dtypes = w.dtype, x.dtype, y.dtype
    w, x, y = arguments.widen(w, x, y)
    s, d = 0.25 * jnp.sum(jnp.square(w + x), -1), 0.25 * jnp.sum(jnp.square(w - x), -1)
    product = row_dot(w, x)
    size = s + d + margin
    finite = size <= 0.25 * float(jnp.finfo(s.dtype).max)
    scale = _PRECISION[s.dtype.name] / jnp.where(finite, size, 1)
    s, d = jnp.where(finite, s, 0) * scale, jnp.where(finite, d, 0) * scale

    def piece(sign: int) -> tuple[Array, Array, Array]:
        """Towards sign * w . x >= margin: `u` and `extra` of `multiplier`, and the cost."""
        missing = jnp.where(finite, jnp.maximum(margin - sign * product, 0), 0) * scale
        u, extra = solve(s, d, sign * missing)
        grow, shrink = (s, d) if sign > 0 else (d, s)
        u_size = jnp.abs(u)
        longer = jnp.where(extra > 0, extra, grow * u_size * u_size)
        # Beyond what `coefficients` can say, the vector that grows is negligible.
        extra = jnp.where(u_size >= degenerate_size(u.dtype), longer, extra)
        shorter = shrink * jnp.square(u_size / (1 + 2 * u_size))
        return u, extra, 2 * (longer + shorter) / scale + jnp.square(sign - y)

    up, down = piece(1), piece(-1)
    positive = jnp.where(up[2] == down[2], product >= 0, up[2] < down[2])
    u, extra = (jnp.where(positive, a, b) for a, b in zip(up[:2], down[:2], strict=True))
    c, k, _ = coefficients(u)
    sign = jnp.where(positive, 1, -1).astype(y.dtype)
    step = root(extra / scale)
    c, k, signs, step = c[..., None], k[..., None], sign[..., None], step[..., None]
    first = jnp.arange(w.shape[-1]) == 0 if w.shape[-1] == x.shape[-1] else jnp.ones(1, bool)
    far = c > 0  # else the sum may overflow, and does not count
    moved_w = w + (jnp.where(far, c * (w + signs * x), 0) + signs * k * x + jnp.where(first, step, 0))
    moved_x = x + (jnp.where(far, c * (x + signs * w), 0) + signs * k * w + jnp.where(first, signs * step, 0))
    moved_w, moved_x = (arguments.missing_where(v, y[..., None]) for v in (moved_w, moved_x))
    sign = arguments.missing_where(sign, y, size)
    return moved_w.astype(dtypes[0]), moved_x.astype(dtypes[1]), sign.astype(dtypes[2])


project_threshold_dot_p = define(
    "pjax_project_threshold_dot",
    _reference,
    derivative=partial(_reference, solve=differentiable_multiplier, root=square_root),
)


def project_threshold_dot(
    w: Float[Array, " n"], x: Float[Array, " n"], y: Float[Array, ""], margin: float
) -> tuple[Float[Array, " n"], Float[Array, " n"], Float[Array, ""]]:
    r"""The nearest point of $\{(w, x, y) : y = \pm 1,\ y\,(w \cdot x) \ge m\}$, a threshold neuron:

    $$\arg\min_{w', x', y'} |w' - w|^2 + |x' - x|^2 + (y' - y)^2.$$

    For either sign the dot product goes to the margin if it falls short of it; the cheaper sign is taken.

    **Arguments:**

    - `w`, `x`: weights and inputs, vectors of one length, at least 1.
    - `y`: the queried output, a scalar.
    - `margin`: m, a number above zero.

    It takes one query; use `jax.vmap` for a batch. bfloat16 and float16 are computed in float32.

    **Returns:** the projected `(w, x, y)`. It is unique except where both signs cost the same (then that of
    the dot product), and for $w = \pm x$ far from the margin, where the minimisers form a sphere. Vectors
    whose squared length overflows the dtype are returned unchanged.

    **Errors:** `ArgumentError` for shapes, dtypes or margins other than these.

    **Cost:** twice the scalar equation of `project_dot`.

    **Source:** Elser and Lal, arXiv 2602.17493; the scalar equation is that of `dot.multiplier`, with a
    heavy output.
    """
    w, x, y = arguments.floating(w=w, x=x, y=y)
    arguments.rank(1, w=w, x=x)
    arguments.rank(0, y=y)
    arguments.same_shape(w=w, x=x)
    arguments.not_empty(w=w)
    arguments.positive(margin=margin)
    moved_w, moved_x, moved_y = project_threshold_dot_p.bind(w, x, y, margin=float(margin))
    return moved_w, moved_x, moved_y


def _forward(w: Array, x: Array, *, sigma: float) -> tuple[Array]:
    dtype = jnp.result_type(w, x)
    product = jnp.einsum("...mn,...n->...m", w, x, preferred_element_type=arguments.compute_dtype(dtype))
    return (jnp.where(product >= 0, 1, -1).astype(dtype),)


threshold_dot_p = define("pjax_threshold_dot", _forward, differentiable=True)


def threshold_margin(fan_in: int, sigma: float) -> float:
    """sqrt(fan_in / sigma): what `sigma` equal weights of squared length `fan_in` give at +-1 inputs."""
    return math.sqrt(fan_in / sigma)


def threshold_dot(w: Float[Array, "m n"], x: Float[Array, " n"], sigma: float = 3.0) -> Float[Array, " m"]:
    r"""A layer of threshold neurons, $y = \mathrm{sign}(W x)$ with $\mathrm{sign}(0) = 1$.

    In a constraint graph each output asks for $y\,(w \cdot x) \ge \sqrt{n/\sigma}$. Together with weights
    of squared length n (`FixedNorm()`) and inputs of +-1, a margin that `sigma` weights of equal size meet
    when they all agree: the larger the margin, the sparser the weights.

    **Arguments:**

    - `w`: (m, n), a row for each neuron; `x`: (n,). Use `jax.vmap` for a batch of inputs.
    - `sigma`: the support; at least 1/n, below which no weights of squared length n meet the margin.

    **Returns:** an array (m,) of -1 and 1. Its derivative is zero, because there is no surrogate.

    **Errors:** `ArgumentError` for shapes, dtypes or `sigma` other than these.

    **Source:** Elser and Lal, arXiv 2602.17493.
    """
    w, x = arguments.floating(w=w, x=x)
    arguments.rank(2, w=w)
    arguments.rank(1, x=x)
    arguments.not_empty(w=w)
    if w.shape[1:] != x.shape:
        raise ArgumentError(f"w and x: expected shapes (m, n) and (n,), given {w.shape} and {x.shape}")
    arguments.positive(sigma=sigma)
    if sigma * x.size < 1:
        raise ArgumentError(
            f"sigma: expected at least 1/{x.size} for {x.size} inputs, given {sigma!r}: no weights of "
            f"squared length {x.size} meet the margin {threshold_margin(x.size, sigma):g} at inputs of +-1"
        )
    return threshold_dot_p.bind(w, x, sigma=float(sigma))[0]
