r"""Projection onto the graph of a layer norm, {(a, z): z = t / sqrt(|t|^2/n + eps)}.

t is the vector a, or what is left of it without its mean (`center`). The mean stays, and of the queried
output only its own t matters, here y. A point of the graph is $t' = s u$ with $|u| = 1$ and the output
$g u$ for $g = s k$, $k = (s^2/n + \epsilon)^{-1/2}$. For a given s the nearest one has u along $t + k y$, at
the cost

$$h(s) = s^2 + g^2 - 2 s |t + k y| + \text{const},$$

a function of one number. Its *slope*, half the derivative, is $(s u - t) \cdot u + g' (g u - y) \cdot u$ with
$g' = \epsilon k^3$; the derivative of the slope is

$$1 + g'^2 + g'' (g - y \cdot u) - k^6 s^3 (|t|^2 |y|^2 - (t \cdot y)^2) / |t + k y|^3.$$

Squared, a zero of the slope is a root of a polynomial of degree 12 in 1/k. Below, n is 1 (lengths are root
mean squares).

**Where minima are.** A zero, $s (1 + \epsilon k^4) = u \cdot (t + \epsilon k^3 y)$, has
$s \le |t| + 0.57 \min(\epsilon^{1/4}, 1) |y|$, and the slope is positive beyond. It falls through a zero only
where $s > \sqrt\epsilon \min(1, 1/|y|) / 4$: with $u \cdot t$ from that equation the first two terms of the
derivative are larger than the others below. So there is at most one minimum below, and the grid starts there.

**How many.** An output opposite to t has a minimum near each. More than two have never been found (by random
search, and by search for them; it is not proved): the slope is negative, positive, negative, positive, and
the minima are at its first and its last zero. A grid of s gives the signs. Both minima lie between two
of its points only near a query where they become one. There the slope is concave, then convex, as
$x^3 - x$ is; Newton's method from the left of a concave function that is negative does not pass its first
zero, and from the right of a convex one that is positive not its last. So one search starts left of the
first rise on the grid, the other to the right of the last one, and costs are compared where they end: those
on the grid do not tell which minimum is lower.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from . import _arguments as arguments
from ._definition import define

_GRID = 64
_RATIO = 0.4
"""The logarithm of the ratio of neighbours on the grid, at most: with 0.8 none was missed, with 3 some."""
_STEPS = {"float32": 16, "float64": 24}
"""Steps of Newton's method, which converges linearly where minima merge; nine sufficed for the least cost."""


def _reference(x: Array, *, axes: tuple[int, ...], eps: float, center: bool) -> tuple[Array]:
    (wide,) = arguments.widen(x)
    t = wide - jnp.mean(wide, axes, keepdims=True) if center else wide
    mean_square = jnp.mean(jnp.square(t), axes, keepdims=True)
    return ((t * jax.lax.rsqrt(mean_square + eps)).astype(x.dtype),)


normalize_p = define("pjax_normalize", _reference, differentiable=True)
"""The function itself, over axes counted from the last one, -1: what a recognised composition becomes."""


def project_reference(a: Array, z: Array, *, eps: float, center: bool, follow: bool = False) -> tuple[Array]:
    """The projection, whose derivative with `follow` is that of the solution, not that of the search."""
    wide, z = arguments.widen(a, z)
    t, z = (x - jnp.mean(x, -1, keepdims=True) if center else x for x in (wide, z))
    unit = jnp.maximum(jnp.max(jnp.abs(t), -1), jnp.max(jnp.abs(z), -1))
    fine = (unit > 0) & jnp.isfinite(unit)
    unit = jnp.where(fine, unit, 1)
    x, y = t / unit[..., None], z / unit[..., None]
    # In float32, roots that are smaller have squares beyond its range.
    root = max(math.sqrt(eps), float(jnp.finfo(wide.dtype).tiny) ** 0.48)
    curve = _curve(x, y, unit / math.sqrt(a.shape[-1]), root)
    if follow:  # one Newton step, of a slope that is held
        s = _length(jax.lax.stop_gradient(curve))
        at = curve.at(s)
        bend = jax.lax.stop_gradient(curve.bend(at))
        s = s - jnp.where(bend > 0, at.slope / jnp.where(bend > 0, bend, 1), 0)
    else:
        s = _length(curve)
    direction = x + curve.steepness(s)[..., None] * y
    norm = _norm(direction)
    size = s / jnp.where(norm > 0, norm, 1)
    new = (wide - t) + unit[..., None] * (size[..., None] * direction)
    fine &= curve.size() > 0  # the reciprocal of the largest numbers is zero
    new = jnp.where(fine[..., None], new, wide)
    return (arguments.missing_where(new, z).astype(a.dtype),)


def _norm(x: Array) -> Array:
    square = jnp.sum(jnp.square(x), -1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _hypot(x: Array, y: Array) -> Array:
    """The same as `jnp.hypot`, in a third of the lines of its program."""
    x, y = jnp.abs(x), jnp.abs(y)
    longer = jnp.maximum(x, y)
    return longer * jnp.sqrt(1 + jnp.square(jnp.minimum(x, y) / jnp.where(longer > 0, longer, 1)))


class _Curve(NamedTuple):
    """The cost over s, both in units; x is (p, 0) in the plane of x and y, and y is (c, d).

    A unit of s is `per_unit` of its root mean square; `root` is that of eps.
    """

    p: Array
    c: Array
    d: Array
    per_unit: Array
    root: Array

    def size(self) -> Array:
        """The sum of the lengths of x and y."""
        return self.p + _hypot(self.c, self.d)

    def steepness(self, s: Array) -> Array:
        """g / s."""
        return 1 / _hypot(self.per_unit * s, self.root)

    def at(self, s: Array) -> "_Point":
        k = self.steepness(s)
        along, across = self.p + k * self.c, k * self.d
        length = _hypot(along, across)
        inverse = 1 / jnp.where(length > 0, length, 1)
        along, across = along * inverse, across * inverse
        rate = jnp.square(self.root * k) * k
        missed = k * s - (self.c * along + self.d * across)
        slope = (s - self.p * along) + rate * missed
        return _Point(s, k, length, rate, missed, slope, self.p * across * inverse)

    def bend(self, at: "_Point") -> Array:
        """The derivative of the slope."""
        k = self.per_unit * at.k
        g = k * at.s
        straight = 1 + at.rate * at.rate - 3 * k * at.rate * g * at.missed
        return straight - jnp.square(at.turn) * (k * at.length) * (g * g * g)


class _Point(NamedTuple):
    """What the cost and its derivatives at s are made of."""

    s: Array
    k: Array
    length: Array
    rate: Array
    missed: Array
    slope: Array
    turn: Array

    def cost(self) -> Array:
        return self.s * (self.s * (1 + self.k * self.k) - 2 * self.length)


def _curve(x: Array, y: Array, per_unit: Array, root: float) -> _Curve:
    """The components of y from y itself: sums of squares would lose half the digits of d."""
    p = _norm(x)
    along = x / jnp.where(p > 0, p, 1)[..., None]
    c = jnp.sum(along * y, -1)
    d = _norm(y - c[..., None] * along)
    return _Curve(p, c, d, per_unit, jnp.full_like(p, root))


def _length(curve: _Curve) -> Array:
    """s, in units, at the least cost."""
    p, c, d, per_unit, root = curve
    size = _hypot(c, d)
    highest = 1.01 * (p + 0.57 * jnp.minimum(jnp.sqrt(root), 1) * size)
    highest = jnp.where(highest > 0, highest, 1)
    lowest = 0.25 * (root / per_unit) / jnp.maximum(1, per_unit * size)
    ratio = jnp.clip(jnp.log(highest / lowest) / (_GRID - 1), 0.01, _RATIO)

    def place(number: Array) -> Array:
        number = jnp.minimum(number, _GRID - 1)
        return jnp.where(number < 0, 0, highest * jnp.exp(ratio * (number - (_GRID - 1))))

    numbers = jnp.arange(_GRID, dtype=p.dtype).reshape(_GRID, *[1] * p.ndim)
    rising = curve.at(place(numbers)).slope > 0
    first = jnp.min(jnp.where(rising, numbers, _GRID - 1), 0)
    last = jnp.max(jnp.where(rising, 0, numbers + 1), 0)  # behind the last point that falls
    low = jnp.stack([place(first - 2), place(last - 1)])
    high = jnp.stack([place(first), place(last + 1)])

    def step(_: int, held: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        low, high, s = held
        at = curve.at(s)
        slope, bend = at.slope, curve.bend(at)
        low, high = jnp.where(slope > 0, low, s), jnp.where(slope > 0, s, high)
        usable = (bend > 0) & (bend < jnp.inf)
        new = s - slope / jnp.where(usable, bend, 1)
        # Not the middle of both ends: where rounding decides between them, one is s and the other far.
        new = jnp.where(new < low, 0.5 * (low + s), jnp.where(new > high, 0.5 * (s + high), new))
        return low, high, jnp.where(usable, new, 0.5 * (low + high))

    start = low, high, jnp.stack([low[0], high[1]])
    *_, s = jax.lax.fori_loop(0, _STEPS[p.dtype.name], step, start)
    cost = curve.at(s).cost()
    return jnp.where(cost[1] < cost[0], s[1], s[0])


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

    **Cost:** seven passes over the vector, and a search in one number: 64 values, and 16 Newton steps (24 in
    float64) from either side.
    """
    arguments.positive(eps=eps)
    a, z = arguments.floating(a=a, z=z)
    arguments.rank(1, a=a)
    arguments.not_empty(a=a)
    arguments.same_shape(a=a, z=z)
    (moved,) = project_normalize_p.bind(a, z, eps=float(eps), center=bool(center))
    return moved
