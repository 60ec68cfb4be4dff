r"""Projection onto the graph of a function of one number, {(a, z): z = f(a)}.

The cost $(x - a)^2 + (f(x) - z)^2$ may have several local minima. On an arc where the curvature of the
graph is monotone, so is each coordinate of its evolute, and half the cost's second derivative,
$1 + f'^2 + (f - z) f''$, changes its sign at most once: the arc has one part on which the cost is convex
and one on which it is concave, so at most one local minimum inside. A bracketed Newton search finds it
on every arc (`curves`), and the cheapest point of all arcs and their ends is the answer.

A target is *near* if the cost is convex within the distance $|f(a) - z|$, where the answer must be: then
a few Newton steps from the query do.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from . import _arguments as arguments
from ._definition import define
from .curves import Arcs, Curve, Line, Parameters, curve

_NEAR = 0.25
"""Bound of |f - z| |f''| for near targets; Newton's method squares what is left of it."""


class Solution(NamedTuple):
    """The nearest point: `new` is the query moved by `step`, `output` the function there."""

    step: Array
    new: Array
    output: Array


def _difference(before: tuple[Array, ...], after: tuple[Array, ...], step: Array) -> Array:
    """f(x + step) - f(x), to the last digits however small the step is.

    Hermite's trapezoidal rule where it agrees with the difference up to its rounding.
    """
    rule = step * (before[1] + after[1]) / 2 + step * step * (before[2] - after[2]) / 12
    plain = after[0] - before[0]
    rounding = 8 * jnp.finfo(step.dtype).eps * (jnp.abs(before[0]) + jnp.abs(after[0]))
    return jnp.where(jnp.abs(plain - rule) <= rounding, rule, plain)


def is_near(x: Array, residual: Array, known: Curve) -> Array:
    """Whether the cost is convex where its minimum is; `residual` is f(x) - z."""
    assert known.jet is not None and known.bend is not None
    radius = jnp.abs(residual)
    _, slope, _ = known.jet(x)
    bend = known.bend(x, radius)
    return bend * radius * (1 + jnp.abs(slope) + bend * radius) <= _NEAR


def solve_near(x: Array, residual: Array, known: Curve, *, straight: bool) -> tuple[Array, Array]:
    """The displacement of a query with a near target, and that of its output."""
    assert known.jet is not None
    jet = known.jet
    start = jet(x)
    step = -residual * start[1] / (1 + start[1] * start[1] + residual * start[2])

    def newton(_: Any, step: Array) -> Array:
        now = jet(x + step)
        left = residual + _difference(start, now, step)
        return step - (step + left * now[1]) / (1 + now[1] * now[1] + left * now[2])

    # A short loop is cheaper to compile, straight code cheaper to run.
    step = jax.lax.fori_loop(0, 3 if x.dtype == jnp.float32 else 4, newton, step, unroll=straight)
    now = jet(x + step)
    return step, _difference(start, now, step)


def _cost(x: Array, y: Array, a: Array, z: Array) -> Array:
    """The squared distance of (x, y) and (a, z), in units that no finite query overflows."""
    unit = jnp.maximum(jnp.maximum(jnp.abs(a), jnp.abs(z)), 1)
    return jnp.square((0.25 * x - 0.25 * a) / unit) + jnp.square((0.25 * y - 0.25 * z) / unit)


def _ends(arcs: Arcs, p: Array, q: Array) -> tuple[Array, Array]:
    """(arcs, ...) the least and the greatest coordinate at which an arc can be nearest.

    From the finite end of an infinite arc nothing is nearer than that end but within its distance.
    """
    largest = float(jnp.finfo(p.dtype).max) / 4
    lows, highs = [], []
    for low, high in zip(arcs.knots[:-1], arcs.knots[1:], strict=True):
        known = jnp.asarray(high if np.isinf(low) else low, p.dtype)
        reach = jnp.abs(p - known) + jnp.abs(q - arcs.jet(known)[0])
        reach = jnp.minimum(reach, largest)
        lows.append(jnp.minimum(p - reach, known) if np.isinf(low) else jnp.full_like(p, low))
        highs.append(jnp.maximum(p + reach, known) if np.isinf(high) else jnp.full_like(p, high))
    both = (p == p) | (q == q)  # a loop wants its values to vary with both operands
    ends = (jnp.clip(jnp.stack(x), -largest, largest) for x in (lows, highs))
    first, last = (jnp.where(both, end, end) for end in ends)
    return first, last


def _nearest_on_arcs(arcs: Arcs, p: Array, q: Array) -> tuple[Array, Array]:
    """The nearest point (t, f(t)) of (p, q) on any of the arcs."""
    low, high = _ends(arcs, p, q)

    def derivatives(t: Array) -> tuple[Array, Array]:
        f, slope, bend = arcs.jet(t)
        left = f - q
        return (t - p) + left * slope, 1 + slope * slope + left * bend

    convex_below = derivatives(low)[1] >= derivatives(high)[1]

    def search(_: Any, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        low, high, t, last = carry
        g, k = derivatives(t)
        down = jnp.where(k > 0, g > 0, convex_below)
        high, low = jnp.where(down, t, high), jnp.where(down, low, t)
        newton = t - g / k
        # Halve the bracket where Newton's step leaves it or does not halve the last one.
        use = (k > 0) & (newton >= low) & (newton <= high) & (2 * jnp.abs(newton - t) <= last)
        new = jnp.where(use, newton, low + 0.5 * (high - low))
        return low, high, new, jnp.abs(new - t)

    middle = low + 0.5 * (high - low)
    steps = 30 if p.dtype == jnp.float32 else 60
    *_, t, _ = jax.lax.fori_loop(0, steps, search, (low, high, middle, high - low))
    best: tuple[Array, ...] | None = None
    for points in (low, high, t):
        values = arcs.jet(points)[0]
        best = _cheaper(best, (_cost(points, values, p, q), points, values))
    assert best is not None
    first, *others = zip(*best, strict=True)  # each of one arc
    for other in others:
        first = _cheaper(first, other)
    return first[1], first[2]


def _cheaper(best: tuple[Array, ...] | None, other: tuple[Array, ...]) -> tuple[Array, ...]:
    if best is None:
        return other
    less = other[0] < best[0]
    return tuple(jnp.where(less, new, old) for new, old in zip(other, best, strict=True))


def solve_far(x: Array, target: Array, known: Curve) -> Solution:
    """Any query."""
    turns = jnp.zeros_like(x)
    if known.period is not None:
        turns = known.period * jnp.round(x / known.period)
    a, z = jnp.broadcast_arrays(x - turns, target)
    best: tuple[Array, ...] | None = None
    for piece in known.pieces:
        if isinstance(piece, Line):
            m, c = piece.slope, piece.intercept
            step = m * (z - c - m * a) / (1 + m * m)
            new = jnp.clip(a + step, piece.low, piece.high)
            step = jnp.where(new == a + step, step, new - a)
            value = m * new + c
        else:
            if piece.swapped:
                value, new = _nearest_on_arcs(piece, z, a)
            else:
                new, value = _nearest_on_arcs(piece, a, z)
            step = new - a
        best = _cheaper(best, (_cost(new, value, a, z), step, new, value))
    assert best is not None
    _, step, new, value = best
    fine = jnp.isfinite(step)
    return Solution(jnp.where(fine, step, 0), jnp.where(fine, new + turns, x), value)


def _solve(
    x: Array, z: Array, function: str, parameters: Parameters, relative: bool, branch: bool
) -> Solution:
    known = curve(function, parameters)
    value = known.extended(x)
    target, residual = (value + z, -z) if relative else (z, value - z)

    def far() -> Solution:
        found = solve_far(x, target, known)
        return found._replace(output=found.output - value) if relative else found

    def near(straight: bool = True) -> Solution:
        step, change = solve_near(x, residual, known, straight=straight)
        new = x + step
        return Solution(step, new, change if relative else known.value(new))

    if known.bend is None:
        return far()
    close = is_near(x, residual, known)

    def anywhere() -> Solution:
        pairs = zip(near(straight=False), far(), strict=True)
        return Solution(*(jnp.where(close, here, there) for here, there in pairs))

    return jax.lax.cond(jnp.all(close), near, anywhere) if branch else anywhere()


def displace_reference(
    x: Array,
    z: Array,
    *,
    function: str,
    parameters: Parameters,
    relative: bool,
    branch: bool = False,
) -> tuple[Array, ...]:
    x, z = arguments.widen(x, z)
    found = _solve(x, z, function, parameters, relative, branch)
    return found.step, found.output


def project_reference(
    a: Array, z: Array, *, function: str, parameters: Parameters, branch: bool = False
) -> tuple[Array]:
    dtype = a.dtype
    a, z = arguments.widen(a, z)
    return (_solve(a, z, function, parameters, False, branch).new.astype(dtype),)


displace_scalar_p = define("pjax_displace_scalar", displace_reference)
"""(x, z) -> displacement of x, new output, where f(x) is to be z. With `relative`, z is the
displacement queried of the output and the second result the displacement it gets: however small,
none is the difference of two values."""

project_scalar_p = define("pjax_project_scalar", project_reference)


def project_scalar(
    a: Float[Array, "..."],
    z: Float[Array, "..."],
    function: str,
    parameters: Parameters = (),
) -> Float[Array, "..."]:
    r"""The input of the nearest point of $\{(a, z) : z = f(a)\}$, elementwise:

    $$\arg\min_{a'} (a' - a)^2 + (f(a') - z)^2,$$

    the global minimum, over the closure of the graph: for a function with a bounded domain or with
    singularities `a` may lie outside.

    **Arguments:**

    - `a`, `z`: input and queried output, of one shape.
    - `function`: "tanh", "logistic", "erf", "erfc", "erf_inv", "atan", "soft_sign", "softplus",
      "log_sigmoid", "silu", "gelu", "gelu_tanh", "exp", "exp2", "expm1", "log", "log1p", "sqrt",
      "rsqrt", "cbrt", "square", "reciprocal", "sin", "cos" or "abs", without parameters;
      "integer_pow" and "pow" of the power; "leaky_relu" of the slope below zero; "clamp" of the
      bounds; "elu", which is s x above zero and b (exp(x / w) - 1) below, of (s, b, w).
    - `parameters`: of the function, numbers; static.

    **Returns:** the projected input. Unique but where several points of the graph are equally near.

    **Errors:** `ArgumentError` for shapes, dtypes, names or parameters other than these.

    **Cost:** a few evaluations of f if all targets are near; else a bracketed search of 30 steps
    (60 in float64) on each arc of the graph, of which there are 2 to 9.
    """
    parameters = tuple(float(x) for x in parameters)
    curve(function, parameters)
    a, z = arguments.floating(a=a, z=z)
    arguments.same_shape(a=a, z=z)
    (moved,) = project_scalar_p.bind(a, z, function=function, parameters=parameters)
    return moved


def _reference(x: Array, *, function: str, parameters: Parameters) -> tuple[Array]:
    dtype = x.dtype
    (x,) = arguments.widen(x)
    return (curve(function, parameters).value(x).astype(dtype),)


scalar_p = define("pjax_scalar", _reference, differentiable=True)
"""The function itself: what a recognised composition of operations becomes."""
