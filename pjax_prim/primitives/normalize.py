r"""Projection onto the graph of a layer norm, {(a, z): z = t / sqrt(|t|^2/n + eps)}.

t is the vector a, or what is left of it without its mean (`center`). The mean stays, and of the queried
output only its own t matters. A point of the graph is $t' = s u$ with $|u| = 1$ and the output $g(s) u$ for
$g(s) = s / \sqrt{s^2/n + \epsilon}$. For a given s the nearest one lies along $w = s t + g z$, at the cost

$$h(s) = s^2 + g^2 - 2 |s t + g z| + \text{const},$$

a function of one number. It is not convex: an output opposite to t has a minimum near each. So it is
evaluated on a grid of its logarithm that covers all minima, and its best bracket is halved to the last digit.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from . import _arguments as arguments
from ._definition import define

_GRID = 64
_HALVINGS = {"float32": 28, "float64": 58}


def _reference(x: Array, *, axes: tuple[int, ...], eps: float, center: bool) -> tuple[Array]:
    (wide,) = arguments.widen(x)
    t = wide - jnp.mean(wide, axes, keepdims=True) if center else wide
    mean_square = jnp.mean(jnp.square(t), axes, keepdims=True)
    return ((t * jax.lax.rsqrt(mean_square + eps)).astype(x.dtype),)


normalize_p = define("pjax_normalize", _reference, differentiable=True)
"""The function itself, over axes counted from the last one, -1: what a recognised composition becomes."""


def project_reference(a: Array, z: Array, *, eps: float, center: bool, follow: bool = False) -> tuple[Array]:
    """With `follow` the derivative is that of the solution, not that of the search."""
    wide, z = arguments.widen(a, z)
    t, z = (x - jnp.mean(x, -1, keepdims=True) if center else x for x in (wide, z))
    unit = jnp.maximum(jnp.max(jnp.abs(t), -1), jnp.max(jnp.abs(z), -1))
    fine = (unit > 0) & jnp.isfinite(unit)
    unit = jnp.where(fine, unit, 1)
    x, y = t / unit[..., None], z / unit[..., None]
    s, along = _length(x, y, unit / math.sqrt(a.shape[-1]), math.sqrt(eps), follow)
    direction = s[..., None] * x + along[..., None] * y
    norm = jnp.sqrt(jnp.sum(jnp.square(direction), -1))
    moving = fine & (norm > 0)
    size = jnp.where(moving, unit * s / jnp.where(moving, norm, 1), 0)
    new = (wide - t) + size[..., None] * direction
    new = jnp.where(moving[..., None], new, wide)
    return (arguments.missing_where(new, z).astype(a.dtype),)


def _length(x: Array, y: Array, per_unit: Array, root: float, follow: bool) -> tuple[Array, Array]:
    """s and g(s), both in units, at the least cost; a unit of s is `per_unit` of its root mean square."""
    a, b, c = (jnp.sum(u * v, -1) for u, v in ((x, x), (x, y), (y, y)))

    def along(s: Array) -> Array:
        return s / jnp.hypot(per_unit * s, jnp.full_like(s, root))

    def norm(s: Array, g: Array) -> Array:
        return jnp.sqrt(jnp.maximum(a * s * s + 2 * b * s * g + c * g * g, 0))

    def cost(s: Array) -> Array:
        g = along(s)
        return s * s + g * g - 2 * norm(s, g)

    def slope(s: Array) -> Array:
        """Half the derivative of the cost: (s u - x) . u + g'(s) (g u - y) . u."""
        g = along(s)
        scale = jnp.hypot(per_unit * s, jnp.full_like(s, root))
        rate = root / scale * (root / scale) / scale
        w = norm(s, g)
        inverse = 1 / jnp.where(w > 0, w, 1)
        return (s - (a * s + b * g) * inverse) + rate * (g - (b * s + c * g) * inverse)

    # From the cost at zero, s is at most |x| + sqrt(|x|^2 + |y|^2). Below, the curve is straight: there the
    # minimum is the projection onto a line, or s is of the size where it bends.
    high = jnp.sqrt(a) + jnp.sqrt(a + c)
    straight = norm(jnp.ones_like(a), jnp.full_like(a, 1 / root)) / (1 + 1 / root**2)
    bend = root / per_unit
    tiny = jnp.asarray(jnp.finfo(a.dtype).tiny ** 0.5, a.dtype)
    low = jnp.maximum(1e-2 * jnp.minimum(jnp.minimum(straight, bend), high), tiny * high)
    ratio = jnp.log(jnp.maximum(high, tiny) / jnp.maximum(low, tiny * tiny)) / (_GRID - 1)
    places = jnp.arange(_GRID, dtype=a.dtype).reshape(_GRID, *[1] * a.ndim)
    grid = low * jnp.exp(ratio * places)
    # Where the slope changes its sign: costs alone do not tell neighbours apart where they are flat.
    falls = slope(grid) <= 0
    falls, rises = falls.at[0].set(True), ~falls.at[-1].set(False)
    costs = cost(grid)
    least = jnp.where(falls[:-1] & rises[1:], jnp.minimum(costs[:-1], costs[1:]), jnp.inf)
    best = jnp.argmin(least, 0).astype(a.dtype)

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        first, last = ends
        middle = 0.5 * (first + last)
        below = slope(middle) > 0
        return jnp.where(below, first, middle), jnp.where(below, middle, last)

    ends = low * jnp.exp(ratio * best), low * jnp.exp(ratio * (best + 1))
    first, last = jax.lax.fori_loop(0, _HALVINGS[a.dtype.name], halve, ends)
    s = 0.5 * (first + last)
    if follow:  # one Newton step, of a slope that is held
        s = jax.lax.stop_gradient(s)
        _, rate = jax.lax.stop_gradient(jax.jvp(slope, (s,), (jnp.ones_like(s),)))
        s = s - jnp.where(rate > 0, slope(s) / jnp.where(rate > 0, rate, 1), 0)
    return s, along(s)


project_normalize_p = define(
    "pjax_project_normalize", project_reference, derivative=partial(project_reference, follow=True)
)


def project_normalize(
    a: Float[Array, " n"], z: Float[Array, " n"], eps: float = 1e-5, center: bool = True
) -> Float[Array, " n"]:
    r"""The input of the nearest point of $\{(a, z) : z = f(a)\}$ for a layer norm f:

    $$\arg\min_{a'} |a' - a|^2 + |f(a') - z|^2, \qquad
      f(a) = t / \sqrt{|t|^2/n + \epsilon}, \quad t = a - \bar a.$$

    **Arguments:**

    - `a`, `z`: input and queried output, vectors of one length, at least 1.
    - `eps`: epsilon, above zero; static.
    - `center`: whether the mean is subtracted; if not, f is the root mean square norm and t is a. Static.

    It takes one query; use `jax.vmap` for a batch.

    **Returns:** the projected input. It is unique except where several points of the graph are equally near.

    **Errors:** `ArgumentError` for shapes, dtypes or settings other than these.

    **Cost:** five passes over the vector, and a search in one number: 64 values and 28 halvings (58 in
    float64).
    """
    arguments.positive(eps=eps)
    a, z = arguments.floating(a=a, z=z)
    arguments.rank(1, a=a)
    arguments.not_empty(a=a)
    arguments.same_shape(a=a, z=z)
    (moved,) = project_normalize_p.bind(a, z, eps=float(eps), center=bool(center))
    return moved
