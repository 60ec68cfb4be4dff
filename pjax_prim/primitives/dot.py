"""Projection onto the graph of the dot product, {(a, b, z): z = a . b}."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from . import _arguments as arguments
from ._definition import define

Solve = Callable[[Array, Array, Array], tuple[Array, Array]]
Root = Callable[[Array], Array]

_STEPS = {"float32": 3, "float64": 4}
"""How many steps of Halley's method `multiplier` takes. From its first value, 3 leave a relative
error below 1e-10 and 4 one below rounding, over 50 decades of each of S, D and r
(tests/primitives/test_multiplier.py)."""

_NEAR_STEPS = {"float32": 1, "float64": 2}
"""The same for `near_multiplier`."""

_NEAR = 0.025
"""Up to which |t| `near_multiplier` is used."""


def multiplier(s: Array, d: Array, residual: Array) -> tuple[Array, Array]:
    r"""Solves the scalar equation of the dot projection.

    In the coordinates $s = a + b$, $d = a - b$ the dot product is $(|s|^2 - |d|^2)/4$ and the
    stationary point with multiplier $t = z_0 - a \cdot b$ is $s = s_0/(1-t)$, $d = d_0/(1+t)$.
    For a residual $r = z_0 - a_0 \cdot b_0 \ge 0$ and $u = t/(1-t)$ the condition reads

    $$F = \frac{u}{1+u} + S\,u(u+2) + D\,\frac{u(2+3u)}{(1+2u)^2} = r,
      \qquad S = |s_0|^2/4,\ D = |d_0|^2/4.$$

    As a function of $v = u(u+2)$ the left side is a sum of increasing concave functions. Halley's
    method in v starts from a lower bound of the root that is within a factor of 3 of it in u. All
    terms are positive, so $u$ keeps full relative precision however small it is. A negative
    residual is the same problem with $S$ and $D$ exchanged.

    **Arguments:** `s`, `d`: $S, D \ge 0$; `residual`: $r$; of one dtype, broadcast together.

    **Returns:** `(u, extra)`; `u` carries the sign of the residual. `extra` is above zero only
    where the vector that has to grow is zero (or negligible): then the minimisers form a sphere
    and `extra` is its squared radius over 4. Where $S + D + |r|$ overflows both are zero.

    **Cost:** a fixed count of steps, elementwise.
    """
    s, d, residual = jnp.broadcast_arrays(s, d, residual)
    size = jnp.abs(residual)
    finite = s + d + size <= 0.25 * float(jnp.finfo(s.dtype).max)
    flip = residual < 0
    r = jnp.where(finite, size, 0)
    grow = jnp.where(finite, jnp.where(flip, d, s), 1)
    shrink = jnp.where(finite, jnp.where(flip, s, d), 1)
    bound = 1 + 0.75 * shrink  # what the other terms supply at most
    missing = r - bound  # what only the growing term can supply
    tiny = float(jnp.finfo(r.dtype).max) ** -0.75
    degenerate = (missing >= 0) & (grow <= missing * tiny)  # v = missing / grow overflows
    grow = jnp.where(degenerate, 1, grow)
    far = _far_bound(grow, shrink, missing + grow)
    u = jnp.where(far > 3, far - 1, _near_bound(grow, shrink, r, bound))
    low = 0.5 * u
    for _ in range(_STEPS[r.dtype.name]):
        u = jnp.maximum(low, u + _halley(u, grow, shrink, r))
    u = jnp.where(degenerate, degenerate_size(u.dtype), u)
    return jnp.where(flip, -u, u), jnp.where(degenerate, missing, 0)


def differentiable_multiplier(s: Array, d: Array, residual: Array) -> tuple[Array, Array]:
    """`multiplier`, with the derivative of the solution: one Newton step, of a slope that is held."""
    u, extra = map(jax.lax.stop_gradient, multiplier(s, d, residual))
    flip = residual < 0
    grow, shrink = jnp.where(flip, d, s), jnp.where(flip, s, d)
    regular = (extra == 0) & (jnp.abs(u) < degenerate_size(u.dtype))
    size = jnp.where(regular, jnp.abs(u), 0)
    left = size / (1 + size) + grow * size * (size + 2) + shrink * size * (2 + 3 * size) / (1 + 2 * size) ** 2
    slope = (1 + size) ** -2 + 2 * (1 + size) * (grow + shrink / (1 + 2 * size) ** 3)
    moved = jnp.where(regular, (jnp.abs(residual) - left) / jax.lax.stop_gradient(slope), 0)
    moved = moved - jax.lax.stop_gradient(moved)
    return u + jnp.where(flip, -moved, moved), jnp.where(extra > 0, unmet(residual, shrink), 0)


def unmet(residual: Array, shrink: Array) -> Array:
    """What is left of a residual, at least, where the vector that has to grow is zero: `extra`."""
    return jnp.abs(residual) - 1 - 0.75 * shrink


def square_root(x: Array) -> Array:
    """The square root, with a derivative of zero at zero."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)


def scaled_residual(s: Array, d: Array, residual: Array) -> Array:
    """The residual by the slope 1 + 2S + 2D of the left side at zero: t to first order."""
    return residual / (1 + 2 * (s + d))


def is_near(scaled: Array) -> Array:
    """Whether every |t| is at most `_NEAR`: the left side is at least t (1 + 2S + 2D)(1 - 3t/2)."""
    return jnp.max(jnp.abs(scaled), initial=0) <= _NEAR * (1 - 1.5 * _NEAR)


def near_multiplier(s: Array, d: Array, residual: Array, scaled: Array) -> Array:
    r"""t of `multiplier` where `is_near`, for either sign of the residual.

    With $p = S - D$ and $q = 2(S + D)$ its equation, times $w^2 = (1 - t^2)^2$, is the polynomial

    $$t\,w^2 + t\,(q + p\,t\,(3 - t^2)) = r\,w^2.$$

    No vector is degenerate there, and Newton's method can start from the expansion at zero. No quotient
    is used twice: XLA would store it.

    **Arguments:** `s`, `d`, `residual` as in `multiplier`; `scaled`, of `scaled_residual`.
    """
    p, q = s - d, 2 * (s + d)
    t = scaled - 3 * scaled * scaled * (p / (1 + q))
    for _ in range(_NEAR_STEPS[t.dtype.name]):
        square = t * t
        w = 1 - square
        missing = (residual - t) * (w * w) - t * (q + p * t * (3 - square))
        slope = w * w + q + t * (p * (6 - 4 * square) + 4 * (residual - t) * w)
        t = t + missing / slope
    return t


@partial(jax.jit, inline=True)  # traced once a shape
def _halley(u: Array, grow: Array, shrink: Array, r: Array) -> Array:
    """The step of u that is Halley's step of v, to third order. The clipping matters only where
    rounding of r decides."""
    y, k = 1 + u, 1 + 2 * u
    both = 1 / (y * k)
    i, j = k * both, y * both
    i3, j3 = i * i * i, j * j * j
    missing = r - (u * i + grow * u * (u + 2) + shrink * u * (2 + 3 * u) * j * j)
    slope = 1 / (grow + 0.5 * i3 + shrink * j3)
    newton = jnp.clip(missing * slope, -0.75 * y * y, 16 * y * y)
    bend = (0.75 * i3 * i * i + 3 * shrink * j3 * j * i) * slope  # -F''/F'
    halley = jnp.maximum(1 - 0.5 * newton * bend, 0.25)
    return newton * i / (2 * halley + 0.5 * newton * i * i)


def _near_bound(grow: Array, shrink: Array, r: Array, bound: Array) -> Array:
    """A lower bound of u, within a factor of 2 of it unless u is large.

    F without its growing term, as a function of v, is at most the hyperbola h v/(v + b) with its
    slope 1/2 + D at zero and its limit h = 1 + 3D/4; this makes the equation quadratic.
    """
    b = bound / (0.5 + shrink)
    scale = 1 / (grow * b + bound + r)
    half = 0.5 * (grow * b + bound - r) * scale
    root = jnp.sqrt(half * half + (grow * b * scale) * (r * scale))
    above = half > 0  # either form of the positive root, whichever does not cancel
    top = jnp.where(above, r * scale * b, root - half)
    below = jnp.where(above, half + root, grow * scale)
    return top / (below + jnp.sqrt(below * (below + top)))


def _far_bound(grow: Array, shrink: Array, n: Array) -> Array:
    """A lower bound of y = 1 + u, within a small factor of it for u far from zero.

    Since (3 + 4u)(1 + u) >= (1 + 2u)^2, y is at least the root of S y^3 - n y - g = 0 with
    g = 1 + D/4 and n = r - 1 - 3D/4 + S; its terms taken two at a time bound that root.
    """
    g = 1 + 0.25 * shrink
    cube = _cube_root_bound(g / grow)
    above = jnp.maximum(jnp.sqrt(jnp.maximum(n, 0) / grow), cube)
    below = 0.68 * jnp.minimum(g / jnp.abs(n), cube)
    return jnp.where(n < 0, below, above)


def _cube_root_bound(x: Array) -> Array:
    """A lower bound of the cube root, within 10% of it."""
    if x.dtype != jnp.float32:
        return 0.99 * jnp.exp(jnp.log(x) / 3)
    # A third of the bits, exponent and mantissa, is within 3.5%; exp and log cost as much as a step.
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    third = (bits.astype(jnp.float32) * jnp.float32(1 / 3)).astype(jnp.int32) + 709921077
    return 0.94 * jax.lax.bitcast_convert_type(third, jnp.float32)


def coefficients(u: Array) -> tuple[Array, Array, Array]:
    r"""`(c, k, sign)` of the displacement
    $\Delta a = c(a + \sigma b) + \sigma k b$, $\Delta b = c(b + \sigma a) + \sigma k a$.

    This form loses no digits: for small $u$ the second term carries the displacement, for large
    $u$ (nearly antiparallel vectors) the first. In the degenerate case the first is absent,
    because the vector it multiplies is zero.
    """
    size = jnp.abs(u)
    k = size / (1 + 2 * size)
    c = jnp.where(size >= degenerate_size(u.dtype), 0, size * k)
    return c, k, jnp.where(u < 0, -1, 1).astype(u.dtype)


def displacement(s: Array, d: Array, residual: Array, z: Array) -> tuple[Array, Array, Array, Array, Array]:
    r"""The projection as coefficients `(c, e, r_a, r_b)` and its output.

    $\Delta a = c a + e b + r_a e_1$ and $\Delta b = c b + e a + r_b e_1$, with the arguments of
    `multiplier` and the queried output `z`. r is not zero in degenerate cases only.
    """
    u, extra = multiplier(s, d, residual)
    c, k, sign = coefficients(u)
    step = jnp.sqrt(extra)
    return c, sign * (c + k), step, sign * step, z - u / (1 + jnp.abs(u))


def degenerate_size(dtype: Any) -> float:
    """The value of u that stands for t = 1."""
    return float(jnp.finfo(dtype).max) ** 0.5


def row_dot(a: Array, b: Array) -> Array:
    """The dot products of the last axis.

    Written twice because XLA's CPU backend hands a plain sum of products of rank other than 3 to
    a kernel that takes 40 times as long (jaxlib 0.10, 0.11).
    """
    return 0.5 * jnp.sum(a * b + b * a, -1)


def _reference(
    a: Array, b: Array, z: Array, *, solve: Solve = multiplier, root: Root = jnp.sqrt
) -> tuple[Array, Array]:
    dtypes = a.dtype, b.dtype
    wide = arguments.compute_dtype(jnp.result_type(a, b, z))
    a, b, z = a.astype(wide), b.astype(wide), z.astype(wide)
    residual = z - row_dot(a, b)
    u, extra = solve(0.25 * jnp.sum(jnp.square(a + b), -1), 0.25 * jnp.sum(jnp.square(a - b), -1), residual)
    c, k, sign = (x[..., None] for x in coefficients(u))
    far = c > 0  # else the sum below may overflow, and does not count
    first = jax.lax.broadcasted_iota(jnp.int32, c.shape[:-1] + a.shape[-1:], c.ndim - 1) == 0
    step = jnp.where(first, root(extra)[..., None], 0)
    moved_a = a + (jnp.where(far, c * (a + sign * b), 0) + sign * k * b + step)
    moved_b = b + (jnp.where(far, c * (b + sign * a), 0) + sign * k * a + sign * step)
    moved_a, moved_b = (arguments.missing_where(x, z[..., None]) for x in (moved_a, moved_b))
    return moved_a.astype(dtypes[0]), moved_b.astype(dtypes[1])


project_dot_p = define(
    "pjax_project_dot",
    _reference,
    derivative=partial(_reference, solve=differentiable_multiplier, root=square_root),
)


def project_dot(
    a: Float[Array, " n"], b: Float[Array, " n"], z: Float[Array, ""]
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    r"""The inputs of the nearest point of $\{(a, b, z) : z = a \cdot b\}$:

    $$\arg\min_{a', b'} |a' - a|^2 + |b' - b|^2 + (a' \cdot b' - z)^2.$$

    **Arguments:**

    - `a`, `b`: vectors of one length, at least 1.
    - `z`: the queried output, a scalar.

    It takes one query; use `jax.vmap` for a batch. bfloat16 and float16 are computed in float32.

    **Returns:** the projected `(a, b)`. It is unique except for $a = \pm b$ with a far target, where
    the minimisers form a sphere and one of them is returned. Inputs whose squared length
    overflows the dtype are returned unchanged.

    **Errors:** `ArgumentError` for shapes or dtypes other than these.

    **Cost:** three sums over the vectors, 3 or 4 scalar steps of Halley's method, one update.

    **Source:** arXiv 2506.05878; the scalar equation is derived in `multiplier`.
    """
    a, b, z = arguments.floating(a=a, b=b, z=z)
    arguments.rank(1, a=a, b=b)
    arguments.rank(0, z=z)
    arguments.same_shape(a=a, b=b)
    arguments.not_empty(a=a)
    moved_a, moved_b = project_dot_p.bind(a, b, z)
    return moved_a, moved_b
