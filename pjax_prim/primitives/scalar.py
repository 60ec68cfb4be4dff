r"""Projection onto the graph of a function of one number, {(a, z): z = f(a)}.

The cost $(x - a)^2 + (f(x) - z)^2$ may have several local minima. On an arc where the curvature of the
graph is monotone, so is each coordinate of its evolute, and half the cost's second derivative,
$1 + f'^2 + (f - z) f''$, changes its sign at most once: the arc has one part on which the cost is convex
and one on which it is concave, so at most one local minimum inside. Bisection and a few steps of Newton's
method find it on every arc (`curves`), and the cheapest point of all arcs and their ends is the answer.

A target is *near* if the cost is convex within the distance $|f(a) - z|$, where the answer must be: then
a few Newton steps from the query do.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from . import _arguments as arguments
from ._definition import define
from .arcs import Arcs, Curve, Line, Parameters
from .curves import curve

_NEAR = 0.09
"""The bound of `_nearness` b. Newton's first step leaves a relative error near b, k more b^(2^(k+1) - 1)."""

_NEWTON_STEPS = {"float32": 2, "float64": 3}
"""How many more."""


_HALVINGS = {"float32": (12, 26), "float64": (24, 56)}
"""How often a bracket is halved where that is enough for all, and else."""

_POLISHING = 4
"""Newton steps after that."""


class Mode(NamedTuple):
    """How to solve, with the same results to rounding.

    - `stops`: whether what is not needed by any query of an array is left out.
    - `straight`: loops as straight code: costs more to compile and less to run.
    - `apart`: each arc of a graph on its own, not as a row of one array: kernels have no rows to stack.
    """

    stops: bool = False
    straight: bool = False
    apart: bool = False


FIXED = Mode()

IN_KERNEL = Mode(stops=True, apart=True)
"""How a kernel solves a block that stays on the chip."""


class Solution(NamedTuple):
    """The nearest point: `new` is the query moved by `step`, `output` the function there."""

    step: Array
    new: Array
    output: Array


def _repeat(
    first: int, last: int, step: Callable[[Any, Array], Array], start: Array, straight: bool
) -> Array:
    """A loop, or its straight code."""
    if not straight:
        return jax.lax.fori_loop(first, last, step, start)
    for i in range(first, last):
        start = step(i, start)
    return start


def _nearness(x: Array, z: Array, known: Curve) -> Array:
    """How far from quadratic the cost is where its minimum is."""
    assert known.jet is not None and known.bend is not None
    value, slope, _ = known.jet(x)
    radius = jnp.abs(value - z)
    bend = known.bend(x, radius)
    return bend * radius * (1 + jnp.abs(slope) + bend * radius)


def solve_near(x: Array, z: Array, known: Curve) -> Array:
    """The displacement of a query with a near target, not finite where the target is not."""
    assert known.jet is not None
    value, slope, bend = known.jet(x)
    residual = value - z
    step = -residual * slope / (1 + slope * slope + residual * bend)
    for _ in range(_NEWTON_STEPS[x.dtype.name]):
        value, slope, bend = known.jet(x + step)
        left = value - z
        step = step - (step + left * slope) / (1 + slope * slope + left * bend)
    return step


def _cost(x: Array, y: Array, a: Array, z: Array) -> Array:
    """The squared distance of (x, y) and (a, z), in units that no finite query overflows."""
    # Of the largest numbers the inverse itself would be taken for zero.
    unit = 1 / (0.0625 * jnp.maximum(jnp.maximum(jnp.abs(a), jnp.abs(z)), 1))
    return jnp.square((0.25 * x - 0.25 * a) * unit) + jnp.square((0.25 * y - 0.25 * z) * unit)


def _ends(arcs: Arcs, lows: Any, highs: Any, p: Array, q: Array) -> tuple[Array, Array]:
    """The least and the greatest coordinate at which arcs can be nearest; of each its knots `lows`, `highs`.

    From the finite end of an infinite arc nothing is nearer than that end but within its distance.
    """
    largest = float(jnp.finfo(p.dtype).max) / 4
    known = jnp.asarray(np.where(np.isinf(lows), highs, lows), p.dtype)
    if not known.shape:
        known = jnp.full(p.shape, known)
    reach = jnp.minimum(jnp.abs(p - known) + jnp.abs(q - arcs.jet(known)[0]), largest)
    first = jnp.where(np.isinf(lows), jnp.minimum(p - reach, known), jnp.asarray(lows, p.dtype))
    last = jnp.where(np.isinf(highs), jnp.maximum(p + reach, known), jnp.asarray(highs, p.dtype))
    both = (p == p) | (q == q)  # a loop wants its values to vary with both operands
    first, last = (jnp.clip(x, -largest, largest) for x in (first, last))
    return jnp.where(both, first, first), jnp.where(both, last, last)


def _nearest_on_arcs(arcs: Arcs, p: Array, q: Array, reach: Array, mode: Mode) -> tuple[Array, Array]:
    """The nearest point (t, f(t)) of (p, q) on any of the arcs, if one is within `reach`."""
    knots = np.asarray(arcs.knots)
    if mode.apart:
        best: tuple[Array, ...] | None = None
        for ends in zip(knots[:-1], knots[1:], strict=True):
            best = _cheaper(best, _nearest_between(*_ends(arcs, *ends, p, q), arcs, p, q, reach, mode))
        assert best is not None
        point = best[1]
    else:
        lows, highs = (x.reshape(-1, *[1] * p.ndim) for x in (knots[:-1], knots[1:]))
        found = _nearest_between(*_ends(arcs, lows, highs, p, q), arcs, p, q, reach, mode)
        point = _point_of_least(*found)
    return point, arcs.jet(point)[0]


def _point_of_least(cost: Array, point: Array) -> Array:
    """The point whose cost is least along the first axis, the first of several."""
    start = jnp.asarray(jnp.inf, cost.dtype), jnp.zeros((), point.dtype)

    def less(best: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, ...]:
        cheaper = _cheaper(best, other)
        assert cheaper is not None
        return cheaper

    _, found = jax.lax.reduce((cost, point), start, less, (0,))
    result: Array = found
    return result


def _nearest_between(
    low: Array, high: Array, arcs: Arcs, p: Array, q: Array, reach: Array, mode: Mode
) -> tuple[Array, Array]:
    """The cost and the coordinate of the best point of an arc, for one or a stack of arcs.

    Every loop carries one array: of several that are made of the same values, each would compute them anew.
    """
    eps = float(jnp.finfo(p.dtype).eps)

    def each(x: Array) -> Array:
        """The numbers in the arcs' shape, because operations of one shape are one loop on CPU."""
        return jnp.broadcast_to(x, low.shape)

    reach = each(reach) + 4 * eps * jnp.abs(each(p))  # of an arc that is out of reach its nearer end remains
    low, high = (jnp.clip(each(p) + side, low, high) for side in (-reach, reach))

    def derivatives(t: Array) -> tuple[Array, Array]:
        f, slope, bend = arcs.jet(t)
        left = f - q
        return (t - p) + left * slope, 1 + slope * slope + left * bend

    # Below zero where the cost is convex above. Both in one array is a loop less on CPU.
    signed = jnp.where(derivatives(low)[1] >= derivatives(high)[1], high - low, low - high)

    def halve(part: Array, start: Array) -> Array:
        """One half of the bracket from `start`, which is twice this part of the whole."""
        middle = start + jnp.abs(signed) * part
        g, k = derivatives(middle)
        below = jnp.where(k > 0, g > 0, signed >= 0)
        return jnp.where(below, start, middle)

    def polish(start: Array, left: Array) -> Array:
        """Newton's method, kept in the bracket of size `left`."""

        def newton(_: Any, t: Array) -> Array:
            g, k = derivatives(t)
            return jnp.where(k > 0, jnp.clip(t - g / k, start, start + left), t)

        # Straight, this is one loop over the elements on CPU.
        straight = mode.straight or (mode.stops and not mode.apart)
        return _repeat(0, _POLISHING, newton, start + 0.5 * left, straight)

    few, most = _HALVINGS[p.dtype.name]

    def part_of(halvings: Any) -> Array:
        return jnp.exp2(-jnp.asarray(halvings, p.dtype))

    def search(first: Any, last: Any, start: Array) -> tuple[Array, Array]:
        """The bracket and its polished point after the halvings up to the last."""
        start = _repeat(first, last, lambda i, x: halve(part_of(i + 1), x), start, mode.straight)
        return start, polish(start, jnp.abs(signed) * part_of(last))

    def are_found(start: Array, t: Array) -> Array:
        """Whether no polished point will move, or the cost is flat in its bracket."""
        left = jnp.abs(signed) * 2.0**-few
        g, k = derivatives(t)
        rounding = 4 * eps * (jnp.abs(t) + jnp.abs(each(p)) + jnp.abs(each(q)))
        still = (k > 0) & (jnp.abs(g) <= rounding * k)
        at_end = (t <= start) | (t >= start + left) | (k <= 0)
        return jnp.max(jnp.where(still | (at_end & (left <= eps**0.4)), 0.0, 1.0)) == 0

    def next_round(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        """The first few halvings, then the others; no more (a last part of 1) once all points are found."""
        part, last, start, _ = carry
        part, start = jax.lax.while_loop(
            lambda carry: carry[0] > last,
            lambda carry: (0.5 * carry[0], halve(0.5 * carry[0], carry[1])),
            (part, start),
        )
        t = polish(start, jnp.abs(signed) * last)
        done = (last < 2.0**-few) | are_found(start, t)
        return part, jnp.where(done, 1, jnp.asarray(2.0**-most, p.dtype)), start, t

    if not mode.stops:
        _, t = search(0, most, low)
    elif mode.straight or mode.apart:
        start, t = search(0, few, low)
        t = jax.lax.cond(are_found(start, t), lambda: t, lambda: search(few, most, start)[1])
    else:  # one program for both rounds
        greatest = jnp.max(low, initial=0)
        one = jnp.where(greatest == greatest, 1, jnp.ones_like(greatest))  # varies as the queries do
        carry = one, one * 2.0**-few, low, low
        *_, t = jax.lax.while_loop(lambda carry: carry[1] < 1, next_round, carry)
    best: tuple[Array, ...] | None = None
    for points in (low, high, t):
        best = _cheaper(best, (_cost(points, arcs.jet(points)[0], each(p), each(q)), points))
    assert best is not None
    cost, point = best
    return (cost if mode.apart else _cost(point, arcs.jet(point)[0], each(p), each(q))), point


def _cheaper(best: tuple[Array, ...] | None, other: tuple[Array, ...]) -> tuple[Array, ...]:
    if best is None:
        return other
    less = other[0] < best[0]
    return tuple(jnp.where(less, new, old) for new, old in zip(other, best, strict=True))


def solve_far(x: Array, target: Array, value: Array, known: Curve, mode: Mode) -> Solution:
    """Any query; `value` is f(x)."""
    reach = jnp.abs(x - known.inside(x)) + jnp.abs(value - target)
    reach = jnp.where(jnp.isfinite(reach), reach, jnp.inf)
    turns = jnp.zeros_like(x)
    if known.period is not None:
        turns = known.period * jnp.floor(x / known.period + 0.5)
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
                value, new = _nearest_on_arcs(piece, z, a, reach, mode)
            else:
                new, value = _nearest_on_arcs(piece, a, z, reach, mode)
            step = new - a
        best = _cheaper(best, (_cost(new, value, a, z), step, new, value))
    assert best is not None
    _, step, new, value = best
    fine = jnp.isfinite(step)
    step, new = jnp.where(fine, step, 0), jnp.where(fine, new + turns, x)
    return Solution(arguments.missing_where(step, target), arguments.missing_where(new, target), value)


def _solve(x: Array, z: Array, function: str, parameters: Parameters, mode: Mode) -> Solution:
    known = curve(function, parameters)

    def far() -> Solution:
        return solve_far(x, z, known.extended(x), known, mode)

    if known.bend is None:
        return far()
    nearness = _nearness(x, z, known)
    step = solve_near(x, z, known)
    near = Solution(step, x + step, known.value(x + step))

    def anywhere(near: Solution) -> Solution:
        pairs = zip(near, far(), strict=True)
        return Solution(*(jnp.where(nearness <= _NEAR, here, there) for here, there in pairs))

    if not mode.stops:
        return anywhere(near)
    return jax.lax.cond(jnp.max(nearness) <= _NEAR, lambda near: near, anywhere, near)


def displace_reference(
    x: Array,
    z: Array,
    *,
    function: str,
    parameters: Parameters,
    mode: Mode = FIXED,
) -> tuple[Array, ...]:
    x, z = arguments.widen(x, z)
    found = _solve(x, z, function, parameters, mode)
    return found.step, found.output


def project_reference(
    a: Array, z: Array, *, function: str, parameters: Parameters, mode: Mode = FIXED
) -> tuple[Array]:
    dtype = a.dtype
    a, z = arguments.widen(a, z)
    return (_solve(a, z, function, parameters, mode).new.astype(dtype),)


def _followed(
    a: Array, z: Array, new: Array, function: str, parameters: Parameters
) -> Callable[[Array, Array], Array]:
    """The solution as a function of the query near `(a, z)`, to first order.

    Where new - a + f' (f - z) is zero, it stays so; at an end of a piece the solution stays.
    """

    def with_slope(f: Callable[[Array], Array]) -> Callable[[Array], tuple[Array, Array]]:
        return lambda t: jax.jvp(f, (t,), (jnp.ones_like(t),))

    value = curve(function, parameters).value
    f, slope = with_slope(value)(new)
    _, bend = with_slope(lambda t: with_slope(value)(t)[1])(new)
    size = (jnp.abs(a) + jnp.abs(new)) + jnp.abs(slope) * (jnp.abs(f) + jnp.abs(z))
    rest = new - a + slope * (f - z)
    curvature = 1 + slope * slope + bend * (f - z)
    free = (jnp.abs(rest) <= float(jnp.finfo(new.dtype).eps) ** 0.5 * size) & (curvature > 0)
    rate = jnp.where(free, 1 / jnp.where(free, curvature, 1), 0)
    slope = jnp.where(free, slope, 0)
    return lambda x, y: new + rate * ((x - a) + slope * (y - z))


def _differentiable_displacement(
    x: Array, z: Array, *, function: str, parameters: Parameters
) -> tuple[Array, ...]:
    x, z = arguments.widen(x, z)
    at, aim = jax.lax.stop_gradient((x, z))
    held, _ = displace_reference(at, aim, function=function, parameters=parameters)
    new = _followed(at, aim, at + held, function, parameters)(x, z)
    return new - x, curve(function, parameters).value(new)


def _differentiable(a: Array, z: Array, *, function: str, parameters: Parameters) -> tuple[Array]:
    dtype = a.dtype
    a, z = arguments.widen(a, z)
    at, aim = jax.lax.stop_gradient((a, z))
    (new,) = project_reference(at, aim, function=function, parameters=parameters)
    return (_followed(at, aim, new, function, parameters)(a, z).astype(dtype),)


def _displacement_types(x: Array, z: Array, **static: Any) -> tuple[Array, ...]:
    x, z = arguments.widen(x, z)
    return x + z, x + z


displace_scalar_p = define(
    "pjax_displace_scalar",
    displace_reference,
    derivative=_differentiable_displacement,
    types=_displacement_types,
)
"""(x, z) -> displacement of x, new output, where f(x) is to be z."""

project_scalar_p = define(
    "pjax_project_scalar", project_reference, derivative=_differentiable, types=arguments.moved_type
)


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
    - `parameters`: the numbers of the function; static.

    **Returns:** the projected input. It is unique except where several points of the graph are equally near.

    **Errors:** `ArgumentError` for shapes, dtypes, names or parameters other than these.

    **Cost:** a few evaluations of f where all targets are near; otherwise a bracketed search of 16 to 30
    steps (30 to 60 in float64) on each arc of the graph, of which there are 2 to 9.
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
