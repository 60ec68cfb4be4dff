r"""Projection onto the graph of logsumexp, {(a, z): z = L(a)} with $L(a) = \log \sum_i e^{a_i}$.

Half the cost of x = a + u is $(|u|^2 + \rho^2)/2$ with $\rho = z - L(x)$. With p = softmax(x) it has the
gradient and the Hessian

$$u - \rho p, \qquad \mathrm{diag}(1 - \rho p) + (1 + \rho) p p^T.$$

**One number.** At a stationary point $u = \rho p$: all entries move the same way, by $\rho$ together, up
where z > L(a) and down where z < L(a). As $\log p_i = a_i + u_i - L(x)$, all $u_i - \log |u_i| - a_i$ are
equal. With m the place of the largest entry of a, $y = u_m$ and $\delta_i = a_m - a_i \ge 0$,

$$u_i - \log |u_i| = y - \log |y| + \delta_i, \qquad u_i = y e^{u_i - y - \delta_i},$$

which has one solution where y < 0 (the Wright omega function) and two where y > 0, one on either side of
1 (the branches of the Lambert W function). At a minimum no two entries are above 1: the Hessian would be
a diagonal with two negative elements and a matrix of rank one, and have a negative eigenvalue. The one
above 1 is m: if it were i with $a_i < a_m$, then $x_i > x_m$, and exchanged they would be nearer to a,
with the same L. So the nearest point is on one curve u(y), where all entries but y are below 1, and y is
a zero of

$$\Phi(y) = \sum_i u_i + \log \sum_i P_i e^{u_i} - (z - L(a)), \qquad P = \mathrm{softmax}(a),$$

$$\Phi'(y) = \sum_i (1 + p_i) \tau_i, \qquad
  \tau_i = \frac{du_i}{dy} = \frac{u_i (1 - y)}{y (1 - u_i)}, \quad \tau_m = 1.$$

**What is guaranteed.** Where $y \le 1$ all $\tau_i$ are from 0 to 1 and $\Phi'$ from 1 to n + 1, so there
is one zero at most. For z < L(a) there is one, y < 0: the nearest point, which is unique. For z > L(a) a
zero is a minimum where $\Phi$ rises: there the Hessian has the determinant $p_m \Phi'(y) \prod_{i \ne m}
(1 - u_i)$. One is at $0 < y \le 1$ if $\Phi(1) \ge 0$, and all entries move less than 1; others may be at
y > 1, where the largest moves nearly alone. There $-\tau_i$ rises with y while $y < 2 - u_i$ and falls
beyond, $p_m$ rises and the other $p_i$ fall; so $\Phi$ is convex for $y \ge 2$. That it falls on one
interval at most, so that there are no more than two minima, the first and the last zero where it rises,
held for 20,000 random mixtures of ties and gaps, and under a search for more; it is not proved. Newton's
method goes to the first one from the left, between ends of known sign, and to the last one from the
right; the cheaper point is taken, by its cost and not by whether it is a zero. So the result is no dearer
than the first minimum in any case.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from . import _arguments as arguments
from ._definition import define
from ._omega import refined

_STEPS = {"float32": 16, "float64": 20}
"""The steps of Newton's method; 12 were found to suffice, and 15 from beyond a place that is nearly flat."""


def _reference(x: Array, *, axes: tuple[int, ...]) -> tuple[Array]:
    (wide,) = arguments.widen(x)
    return (jax.nn.logsumexp(wide, axes).astype(x.dtype),)


logsumexp_p = define("pjax_logsumexp", _reference, differentiable=True)
"""The function itself, over axes counted from the last one, -1: what a recognised composition becomes."""


def _sum(x: Array) -> Array:
    return jnp.sum(x, -1, keepdims=True)


def _near_one(q: Array) -> Array:
    r"""The root $u \le 1$ of $u - 1 - \log u = q^2/2$ by its series."""
    coefficients = (139 / 5443200, 1 / 17010, -1 / 4320, -1 / 270, -1 / 36, 1 / 3, -1, 1)
    total = jnp.zeros_like(q)
    for coefficient in coefficients:
        total = total * q + coefficient
    return total


def _moves(y: Array, delta: Array) -> tuple[Array, Array]:
    r"""u and u / y of $u - \log |u| = y - \log |y| + \delta$, the one solution below zero or from 0 to 1.

    -u is a value w of the Lambert W function, $w + \log |w| = x$.
    """
    single = y.dtype == jnp.float32
    above, size = y > 0, jnp.abs(y)
    near = (y > 0.5) & (y < 2)
    log_size = jnp.where(near, jnp.log1p(jnp.where(near, y - 1, 0)), jnp.log(jnp.where(y == 0, 1, size)))
    log_size = jnp.where(y == 0, -jnp.inf, log_size)
    eta = jnp.maximum((y - 1) - log_size, 0) + delta  # for y > 0
    x = jnp.where(above, -1 - eta, log_size + size - delta)
    x = jnp.maximum(x, math.log(float(jnp.finfo(y.dtype).eps)) - 3)  # w is as good as zero below
    t = jnp.exp(jnp.minimum(x, 40))
    s = jnp.where(x > 40, x, jnp.log1p(t))
    q = jnp.sqrt(2 * eta)
    series = _near_one(jnp.minimum(q, 1.5))
    small = jnp.where(q < 1.5, series, t * (1 + t * (1 + 1.5 * t)))
    edge = above & (q < (0.3 if single else 0.05))
    w = jnp.where(above, -small, s * (1 - jnp.log(1 + s) / (2 + s)))
    w = jnp.where(edge, -0.5, w)
    for _ in range(1 if single else 2):
        w = refined(w, x - w - jnp.log(jnp.abs(w)))
    u = jnp.where(edge, series, -w)
    large = ~above & (w > 1)
    ratio = jnp.where(large, w / jnp.where(large, size, 1), jnp.exp(jnp.minimum(u - y - delta, 0)))
    return y * ratio, ratio


class _Point(NamedTuple):
    """A point of the curve: the moves, by how much L changes, Phi and its derivative."""

    u: Array
    change: Array
    value: Array
    slope: Array

    def cost(self, gamma: Array) -> Array:
        """The cost in units of that of not moving."""
        unit = jnp.where(gamma == 0, 1, gamma)
        return _sum(jnp.square(self.u / unit)) + jnp.square((gamma - self.change) / unit)


class _Curve(NamedTuple):
    """The curve of a query; of the largest entry `log_p` is log P, and `gamma` is z - L(a)."""

    largest: Array
    delta: Array
    p: Array
    log_p: Array
    gamma: Array

    @classmethod
    def of(cls, a: Array, z: Array) -> "_Curve":
        position = lax.broadcasted_iota(jnp.int32, a.shape, a.ndim - 1)
        largest = position == jnp.argmax(a, -1, keepdims=True)
        top = jnp.max(a, -1, keepdims=True)
        delta = jnp.where(largest, 0, top - a)
        odds = _sum(jnp.where(largest, 0, jnp.exp(-delta)))
        log_p = -jnp.log1p(odds)
        return cls(largest, delta, jnp.exp(log_p - delta), log_p, (z[..., None] - top) + log_p)

    def at(self, y: Array) -> _Point:
        u, ratio = _moves(y, self.delta)
        u, ratio = jnp.where(self.largest, y, u), jnp.where(self.largest, 1, ratio)
        total = _sum(ratio)
        change = _sum(jnp.where(self.largest, 0, self.p * jnp.expm1(u - y)))
        little = jnp.abs(change) < 0.5
        logs = jnp.where(little, jnp.log1p(jnp.where(little, change, 0)), self.log_p + jnp.log(total))
        change = y + logs
        below = jnp.where(u == 1, 1, 1 - u)
        turn = jnp.where(self.largest, 1, jnp.clip(ratio * ((1 - y) / below), -1, 1))
        slope = _sum((1 + ratio / total) * turn)
        return _Point(u, change, (y * total + change) - self.gamma, slope)


def _search(curve: _Curve, low: Array, high: Array, start: Array, stops: bool) -> Array:
    """A zero of Phi, which is not above zero at `low` and not below at `high`, near where `start` leads."""
    eps = float(jnp.finfo(start.dtype).eps)
    count = _STEPS[start.dtype.name]

    def step(held: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        low, high, y = held
        at = curve.at(y)
        low, high = jnp.where(at.value > 0, low, y), jnp.where(at.value > 0, y, high)
        usable = at.slope > 0
        new = y - at.value / jnp.where(usable, at.slope, 1)
        # Not the middle of both ends: where rounding decides between them, one is y and the other far.
        new = jnp.where(new < low, 0.5 * (low + y), jnp.where(new > high, 0.5 * (y + high), new))
        return low, high, jnp.where(usable, new, 0.5 * (low + high))

    begin = low, high, start
    if not stops:
        return lax.fori_loop(0, count, lambda _, held: step(held), begin)[2]

    def unfinished(held: tuple[Array, Array, tuple[Array, Array, Array]]) -> Array:
        number, before, (_, _, y) = held
        return (number < count) & ((number == 0) | jnp.any(jnp.abs(y - before) > 4 * eps * jnp.abs(y)))

    begin_all = jnp.zeros((), jnp.int32), start, begin
    return lax.while_loop(unfinished, lambda x: (x[0] + 1, x[2][2], step(x[2])), begin_all)[2][2]


def _displacement(a: Array, z: Array, stops: bool) -> Array:
    curve = _Curve.of(a, z)
    gamma = curve.gamma
    fine = jnp.isfinite(gamma)
    curve = curve._replace(gamma=jnp.where(fine, gamma, 0))
    gamma = curve.gamma
    # What Newton's method makes of no move.
    first = gamma * jnp.exp(curve.log_p) / (1 + _sum(jnp.square(curve.p)))
    one = jnp.ones_like(gamma)
    # Phi is at least 2 y + log P - gamma. No zero is at an end, where rounding would tell its side.
    end = jnp.maximum(1.01 * jnp.minimum(gamma, 0.5 * (gamma - curve.log_p)), 1)
    alone = curve.at(one).value < 0
    low = jnp.where(alone, 1, jnp.minimum(gamma, 0))
    high = jnp.where(alone, end, jnp.clip(gamma, 0, 1))
    start = jnp.where(alone, 1, jnp.clip(first, low, high))

    def together() -> Array:
        return curve.at(_search(curve, low, high, start, stops)).u

    def both() -> Array:
        lows, highs, starts = (jnp.stack(x) for x in ((low, one), (high, end), (start, end)))
        found = curve.at(_search(curve, lows, highs, starts, stops))
        costs = found.cost(gamma)
        # Where both are one minimum, the search from the left is the one that is sure to have arrived.
        less = costs[1] < costs[0] * (1 - 16 * float(jnp.finfo(gamma.dtype).eps))
        return jnp.where(less, found.u[1], found.u[0])

    u = lax.cond(jnp.any(end > 1), both, together) if stops else both()
    return jnp.where(fine, u, 0)


def project_reference(a: Array, z: Array, *, stops: bool = False, follow: bool = False) -> tuple[Array]:
    """The projection; with `follow` its derivative is that of the solution, by one Newton step."""
    dtype = a.dtype
    a, z = arguments.widen(a, z)
    shape = jnp.broadcast_shapes(a.shape[:-1], z.shape)
    a, z = jnp.broadcast_to(a, (*shape, a.shape[-1])), jnp.broadcast_to(z, shape)
    held, aim = (lax.stop_gradient(x) for x in (a, z)) if follow else (a, z)
    u = arguments.finite_or_zero(_displacement(held, aim, stops))
    new = a + u
    if follow:
        u = lax.stop_gradient(u)
        x = lax.stop_gradient(held + u)
        p, rest = jax.nn.softmax(x, -1), aim - jax.nn.logsumexp(x, -1)
        taken = (a - held) + p * (z - aim)[..., None]
        diagonal = jnp.where(u == 1, float(jnp.finfo(u.dtype).eps), 1 - u)
        weight = 1 + rest[..., None]
        share = weight * _sum(p * taken / diagonal) / (1 + weight * _sum(p * p / diagonal))
        new = held + u + (taken - p * share) / diagonal
    return (arguments.missing_where(new, z[..., None]).astype(dtype),)


project_logsumexp_p = define(
    "pjax_project_logsumexp",
    project_reference,
    derivative=partial(project_reference, follow=True),
    types=lambda a, z: arguments.moved_type(a, z[..., None]),
)


def project_logsumexp(a: Float[Array, " n"], z: Float[Array, ""]) -> Float[Array, " n"]:
    r"""The input of the nearest point of $\{(a, z) : z = \log \sum_i e^{a_i}\}$:

    $$\arg\min_{a'} |a' - a|^2 + \Big(\log \sum_i e^{a'_i} - z\Big)^2.$$

    **Arguments:**

    - `a`: a vector of length n, at least 1; entries of minus infinity stay.
    - `z`: the queried output, a scalar.

    It takes one query; use `jax.vmap` for a batch.

    **Returns:** the projected input. For z below logsumexp(a) all entries are lowered, and it is unique. For
    z above, all are raised a little or the largest nearly alone, whichever is cheaper. It is unique but for
    ties: of these two, and of the largest entries, of which the first is raised.

    **Errors:** `ArgumentError` for shapes or dtypes other than these.

    **Cost:** two searches in one number, 16 Newton steps each (20 in float64), a few passes over the vector
    each; on one CPU they stop when none moves, and there is one where no z is much above.
    """
    a, z = arguments.vector_and_number(a, z)
    (moved,) = project_logsumexp_p.bind(a, z)
    return moved
