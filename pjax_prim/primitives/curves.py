"""Scalar functions as the projection onto their graphs has to know them.

The graph of a function is cut into *arcs*: a smooth part on which the second derivative keeps its sign
and the curvature is monotone, with y as a function of x or (`swapped`) x as a function of y, whichever
is not steep. `primitives.scalar` says why that makes the nearest point easy to find.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from ..errors import ArgumentError

Value: TypeAlias = Callable[[Array], Array]
Jet: TypeAlias = Callable[[Array], tuple[Array, Array, Array]]
Parameters: TypeAlias = tuple[float, ...]
INFINITY = math.inf
_EXP_VERTEX = -0.5 * math.log(2)  # where exp has slope 1/sqrt 2


@dataclass(frozen=True)
class Arcs:
    """Part of a graph between the first and the last of `knots`, which divide it into arcs.

    `jet` gives the function with its first two derivatives there. At least one knot is finite.
    """

    jet: Jet
    knots: tuple[float, ...]
    swapped: bool = False


@dataclass(frozen=True)
class Line:
    """The points (x, slope x + intercept) with low <= x <= high."""

    low: float
    high: float
    slope: float
    intercept: float = 0.0


@dataclass(frozen=True)
class Curve:
    """A function of one number.

    - `value`: the function itself.
    - `pieces`: its graph, or for a periodic function what is within two periods of 0.
    - `jet`: the function with two derivatives, where `bend` is finite.
    - `bend(x, r)`: an upper bound of its second derivative's size within r of x; infinite where it
      has a kink or a singularity there. None if it has no use (lines alone).
    - `period`: of a periodic function.
    - `domain`: where it is defined; see `extended`.
    """

    value: Value
    pieces: tuple[Arcs | Line, ...]
    jet: Jet | None = None
    bend: Callable[[Array, Array], Any] | None = None
    period: float | None = None
    domain: tuple[float, float] = (-INFINITY, INFINITY)

    def extended(self, x: Array) -> Array:
        """The function, outside its domain the value at the nearest point where it is finite.

        Iterates average numbers, so that the mean of points of the domain, or a rounded one, may
        lie outside it.
        """
        return self.value(self.inside(x))

    def inside(self, x: Array) -> Array:
        """The nearest point to x where the function is defined and finite."""
        low, high = self.domain
        if (low, high) == (-INFINITY, INFINITY):
            return x
        info = jnp.finfo(x.dtype)
        low = low + float(info.tiny if low == 0 else info.eps)
        return jnp.clip(x, low, high - float(info.eps))


def jet_of(value: Value) -> Jet:
    """The function with its first two derivatives, by forward differentiation."""

    def jet(x: Array) -> tuple[Array, Array, Array]:
        one = jnp.ones_like(x)

        def once(x: Array) -> tuple[Array, Array]:
            f, slope = jax.jvp(value, (x,), (one,))
            return f, slope

        (f, slope), (_, bend) = jax.jvp(once, (x,), (one,))
        return f, slope, bend

    return jet


def _smooth(
    value: Value, bound: float, *knots: float, jet: Jet | None = None, lines: tuple[Line, ...] = ()
) -> Curve:
    """A function whose slope stays near 1 and whose second derivative is at most `bound`.

    `lines` take over where the function is one to the last digit.
    """
    jet = jet or jet_of(value)
    return Curve(value, (Arcs(jet, knots), *lines), jet, lambda x, r: bound)


def _tail(value: Value, bound: float, limit: float, *knots: float, jet: Jet | None = None) -> Curve:
    """A function that is 0 below -limit and x above limit."""
    lines = Line(-INFINITY, -limit, 0.0), Line(limit, INFINITY, 1.0)
    return _smooth(value, bound, -limit, *knots, limit, jet=jet, lines=lines)


def raised(x: Array, power: float) -> Array:
    """x ** power, by the cheapest operation."""
    if power == int(power):
        return lax.integer_pow(x, int(power))
    if abs(power) == 0.5:
        return lax.sqrt(x) if power > 0 else lax.rsqrt(x)
    return lax.cbrt(x) if power == 1 / 3 else jnp.power(x, power)


def _power(power: float, parity: str = "none") -> Curve:
    """x ** power for x >= 0, and for x < 0 by symmetry ("even", "odd") or not at all ("none").

    Its arcs of slope at most |power| are those of x for |x| between 0 and 1 or above 1; of the others
    the inverse is taken.
    """

    def jet(p: float, parity: str, side: int = 1) -> Jet:
        def of(x: Array) -> tuple[Array, Array, Array]:
            u = x if parity == "none" else jnp.abs(x)
            sign = jnp.where(x < 0, -1, 1).astype(x.dtype) if parity != "none" else 1
            f, slope, bend = raised(u, p), p * raised(u, p - 1), p * (p - 1) * raised(u, p - 2)
            if parity == "even":
                slope = sign * slope
            if parity == "odd":
                f, bend = sign * f, sign * bend
            return side * f, side * slope, side * bend

        return of

    def knots(p: float) -> tuple[float, ...]:
        """Of the flat part for x > 0, with the vertex if it has one."""
        low, high = (0.0, 1.0) if p > 1 else (1.0, INFINITY)
        ratio = (p - 2) * (2 * p - 1)
        vertex = ((p - 2) / (p * p * (2 * p - 1))) ** (1 / (2 * p - 2)) if ratio > 0 else -1.0
        return (low, vertex, high) if low < vertex < high else (low, high)

    inverse = 1 / power
    steep = knots(inverse)
    pieces: list[Arcs] = []
    for p, which, swapped in ((power, knots(power), False), (inverse, steep, True)):
        mirrored = tuple(-k for k in which[::-1])
        if not swapped:
            pieces.append(Arcs(jet(p, parity), which))
            if parity != "none":
                pieces.append(Arcs(jet(p, parity), mirrored))
            continue
        pieces.append(Arcs(jet(p, "none"), which, swapped=True))
        if parity == "even":
            pieces.append(Arcs(jet(p, "none", -1), which, swapped=True))
        if parity == "odd":
            pieces.append(Arcs(jet(p, "odd"), mirrored, swapped=True))

    def value(x: Array) -> Array:
        if parity == "odd" and power != int(power) and power != 1 / 3:
            return jnp.sign(x) * raised(jnp.abs(x), power)
        return raised(x, power)

    def bend(x: Array, r: Array) -> Array:
        u = x if parity == "none" else jnp.abs(x)
        size = abs(power * (power - 1))
        if power >= 2 and parity != "none":
            return size * raised(u + r, power - 2)
        end = u + r if power >= 2 else u - r
        return jnp.where(u > r, size * raised(jnp.where(u > r, end, 1), power - 2), jnp.inf)

    domain = (0.0 if parity == "none" else -INFINITY, INFINITY)
    return Curve(value, tuple(pieces), jet(power, parity), bend, None, domain)


def _integer_power(power: float) -> Curve:
    if power != int(power) or power in (0, 1):
        raise ArgumentError(f"parameters: expected an integer other than 0 and 1, given {power!r}")
    return _power(int(power), "odd" if power % 2 else "even")


def _any_power(power: float) -> Curve:
    if not math.isfinite(power) or power in (0, 1):
        raise ArgumentError(f"parameters: expected a finite power other than 0 and 1, given {power!r}")
    return _integer_power(power) if power == int(power) else _power(power)


def _exponential(value: Value, inverse: Value, rate: float, shift: float = 0.0) -> Curve:
    """exp(rate x) - shift. The flat part is x below 0, the inverse is flat above."""
    vertex = (_EXP_VERTEX - math.log(rate)) / rate
    knots: tuple[float, ...] = (-INFINITY, vertex, 0.0) if vertex < 0 else (-INFINITY, 0.0)
    top: tuple[float, ...] = (1 - shift, INFINITY)
    if vertex > 0:
        top = (1 - shift, math.exp(rate * vertex) - shift, INFINITY)
    pieces = (Arcs(jet_of(value), knots), Arcs(jet_of(inverse), top, swapped=True))

    def bend(x: Array, r: Array) -> Array:
        return rate * rate * jnp.exp(rate * (x + r))

    return Curve(value, pieces, jet_of(value), bend)


def _logarithm(value: Value, inverse: Value, shift: float = 0.0) -> Curve:
    """log(x + shift): an exponential with its axes exchanged."""
    pieces = tuple(
        Arcs(piece.jet, piece.knots, not piece.swapped)
        for piece in _exponential(inverse, value, 1.0, shift).pieces
        if isinstance(piece, Arcs)
    )

    def bend(x: Array, r: Array) -> Array:
        least = x + shift - r
        return jnp.where(least > 0, 1 / jnp.square(jnp.where(least > 0, least, 1)), jnp.inf)

    return Curve(value, pieces, jet_of(value), bend, None, (-shift, INFINITY))


def _lines(value: Value, *lines: Line) -> Curve:
    return Curve(value, lines)


def _leaky_relu(slope: float) -> Curve:
    return _lines(
        lambda x: jnp.where(x >= 0, x, slope * x),
        Line(-INFINITY, 0.0, slope),
        Line(0.0, INFINITY, 1.0),
    )


def _clamp(low: float, high: float) -> Curve:
    if not low <= high:
        raise ArgumentError(f"parameters: expected low <= high, given {(low, high)}")
    return _lines(
        lambda x: jnp.clip(x, low, high),
        Line(-INFINITY, low, 0.0, low),
        Line(low, high, 1.0),
        Line(high, INFINITY, 0.0, high),
    )


def _elu(slope: float, alpha: float, width: float) -> Curve:
    """slope x above 0 and alpha (exp(x / width) - 1) below: elu, selu and celu."""
    if not (alpha > 0 and width > 0 and slope > 0):
        raise ArgumentError(f"parameters: expected numbers above zero, given {(slope, alpha, width)}")

    def below(x: Array) -> Array:
        return alpha * jnp.expm1(x / width)

    def value(x: Array) -> Array:
        return jnp.where(x > 0, slope * x, below(jnp.minimum(x, 0)))

    def jet(x: Array) -> tuple[Array, Array, Array]:
        f, first, second = jet_of(below)(jnp.minimum(x, 0))
        right = x > 0
        return (
            jnp.where(right, slope * x, f), jnp.where(right, slope, first), jnp.where(right, 0, second)
        )  # fmt: skip

    vertex = width * math.log(width / (alpha * math.sqrt(2)))
    knots = (-INFINITY, vertex, 0.0) if vertex < 0 else (-INFINITY, 0.0)
    bound = alpha / width**2

    def bend(x: Array, r: Array) -> Any:
        if abs(alpha / width - slope) < 1e-6 * slope:
            return bound
        return jnp.where(jnp.abs(x) > r, bound, jnp.inf)

    return Curve(value, (Line(0.0, INFINITY, slope), Arcs(jet_of(below), knots)), jet, bend)


def _softsign_jet(x: Array) -> tuple[Array, Array, Array]:
    u = 1 / (1 + jnp.abs(x))
    return x * u, u * u, -2 * jnp.sign(x) * u * u * u


def _sine(value: Value, shift: float) -> Curve:
    quarter = math.pi / 2
    knots = tuple(quarter * i - shift for i in range(-4, 6))
    jet = jet_of(value)
    return Curve(value, (Arcs(jet, knots),), jet, lambda x, r: 1.0, 4 * quarter)


def _gelu(approximate: bool) -> Value:
    return lambda x: jax.nn.gelu(x, approximate=approximate)


def _arctangent_jet(x: Array) -> tuple[Array, Array, Array]:
    far = jnp.abs(x) > 1
    u = jnp.where(far, 1 / jnp.where(far, x, 1), x)  # the slope is 1/(1 + x^2) = u^2/(1 + u^2)
    slope = jnp.where(far, u * u, 1) / (1 + u * u)
    return jnp.arctan(x), slope, -2 * jnp.where(far, slope * u / (1 + u * u), x * slope * slope)


def _error_jet(x: Array) -> tuple[Array, Array, Array]:
    slope = 2 / math.sqrt(math.pi) * jnp.exp(-x * x)  # jet_of would multiply infinity by zero
    return lax.erf(x), slope, -2 * (x * slope)


def _complement_jet(x: Array) -> tuple[Array, Array, Array]:
    _, slope, bend = _error_jet(x)
    return lax.erfc(x), -slope, -bend


def _gelu_jet(x: Array) -> tuple[Array, Array, Array]:
    # By erf: with erfc, which costs ten times as much in a loop, the tail would have all its digits.
    below = 0.5 + 0.5 * lax.erf(x * math.sqrt(0.5))
    square = jnp.minimum(x * x, 400)  # from where the density is zero to the last digit
    density = jnp.exp(-0.5 * square) * (1 / math.sqrt(2 * math.pi))
    return x * below, below + x * density, density * (2 - square)


def _inverse_error_function() -> Curve:
    return Curve(lax.erf_inv, (Arcs(_error_jet, _ERROR, swapped=True),), domain=(-1.0, 1.0))


_ERROR = (-INFINITY, -0.977035816, 0.0, 0.977035816, INFINITY)
_SIGMOID = (-INFINITY, -1.363753704, 0.0, 1.363753704, INFINITY)
_SILU = (-3.443870601, -2.399357281, -0.391727755, 2.399357281, 3.494002022)
_GELU = (-2.006851572, -1.414213562, -0.281824112, 1.414213562, 2.042320721)
_GELU_TANH = (-2.020494104, -1.418504009, -0.28112714, 1.418504009, 2.057103994)
_SOFTPLUS = (-0.481211825,)

_CURVES: dict[str, tuple[int, Callable[..., Curve]]] = {
    "tanh": (0, lambda: _smooth(jnp.tanh, 0.7699, -INFINITY, -0.919021362, 0.0, 0.919021362, INFINITY)),
    "logistic": (0, lambda: _smooth(lax.logistic, 0.0963, *_SIGMOID)),
    "erf": (0, lambda: _smooth(lax.erf, 0.968, *_ERROR, jet=_error_jet)),
    "erfc": (0, lambda: _smooth(lax.erfc, 0.968, *_ERROR, jet=_complement_jet)),
    "erf_inv": (0, _inverse_error_function),
    "atan": (
        0,
        lambda: _smooth(
            jnp.arctan, 0.6496, -INFINITY, -0.831575905, 0.0, 0.831575905, INFINITY, jet=_arctangent_jet
        ),
    ),
    "soft_sign": (
        0, lambda: _smooth(jax.nn.soft_sign, 2.0, -INFINITY, 0.0, INFINITY, jet=_softsign_jet)
    ),
    "softplus": (0, lambda: _tail(jax.nn.softplus, 0.25, 50.0, *_SOFTPLUS)),
    "log_sigmoid": (
        0,
        lambda: _smooth(
            jax.nn.log_sigmoid, 0.25, -50.0, 0.481211825, 50.0,
            lines=(Line(-INFINITY, -50.0, 1.0), Line(50.0, INFINITY, 0.0)),
        ),
    ),
    "silu": (0, lambda: _tail(jax.nn.silu, 0.5, 50.0, *_SILU)),
    "gelu": (0, lambda: _tail(_gelu(False), 0.7979, 20.0, *_GELU, jet=_gelu_jet)),
    "gelu_tanh": (0, lambda: _tail(_gelu(True), 0.7979, 20.0, *_GELU_TANH)),
    "exp": (0, lambda: _exponential(jnp.exp, jnp.log, 1.0)),
    "exp2": (0, lambda: _exponential(jnp.exp2, jnp.log2, math.log(2))),
    "expm1": (0, lambda: _exponential(jnp.expm1, jnp.log1p, 1.0, 1.0)),
    "log": (0, lambda: _logarithm(jnp.log, jnp.exp)),
    "log1p": (0, lambda: _logarithm(jnp.log1p, jnp.expm1, 1.0)),
    "sqrt": (0, lambda: _power(0.5)),
    "rsqrt": (0, lambda: _power(-0.5)),
    "cbrt": (0, lambda: _power(1 / 3, "odd")),
    "square": (0, lambda: _power(2, "even")),
    "reciprocal": (0, lambda: _power(-1, "odd")),
    "integer_pow": (1, _integer_power),
    "pow": (1, _any_power),
    "sin": (0, lambda: _sine(jnp.sin, 0.0)),
    "cos": (0, lambda: _sine(jnp.cos, math.pi / 2)),
    "abs": (0, lambda: _lines(jnp.abs, Line(-INFINITY, 0.0, -1.0), Line(0.0, INFINITY, 1.0))),
    "leaky_relu": (1, _leaky_relu),
    "clamp": (2, _clamp),
    "elu": (3, _elu),
}  # fmt: skip
"""Name -> (number of parameters, the curve of these parameters)."""


@cache
def curve(function: str, parameters: Parameters = ()) -> Curve:
    """The curve of a name in the table.

    **Errors:** `ArgumentError` for a name that is not there or parameters that it does not take.
    """
    if function not in _CURVES:
        raise ArgumentError(f"function: expected one of {', '.join(_CURVES)}, given {function!r}")
    count, make = _CURVES[function]
    if len(parameters) != count:
        raise ArgumentError(f"parameters: expected {count} number(s) for {function!r}, given {parameters!r}")
    return make(*parameters)
