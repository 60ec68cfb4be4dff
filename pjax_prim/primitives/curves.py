"""The table of functions of one number: the curve of each (`arcs`), and what else is known of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jaxtyping import Array

from ..errors import ArgumentError
from .arcs import INFINITY, Arcs, Curve, Jet, Line, Parameters, Value, jet_of

_EXP_VERTEX = -0.5 * math.log(2)  # where exp has slope 1/sqrt 2


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
        """The knots of the flat part for x > 0, with the vertex if it has one."""
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


@dataclass(frozen=True)
class Function:
    """A row of the table of functions: all that is known of one by its name.

    - `make`: the curve of its parameters.
    - `parameters`: how many numbers these are.
    - `steepest`: of the parameters the largest slope, rounded up; None where there is none, or none is known.
    - `without_kernel`: the platforms whose kernels lack an operation of it. Triton ("cuda") has no error
      function, Mosaic ("tpu") lacks some others.
    - `operation`: JAX's primitive that is this function without parameters; None where there is none.
    """

    make: Callable[..., Curve]
    parameters: int = 0
    steepest: Callable[..., float] | None = None
    without_kernel: tuple[str, ...] = ()
    operation: Primitive | None = None


def _at_most(slope: float) -> Callable[..., float]:
    return lambda *parameters: slope


FUNCTIONS: dict[str, Function] = {
    "tanh": Function(
        lambda: _smooth(jnp.tanh, 0.7699, -INFINITY, -0.919021362, 0.0, 0.919021362, INFINITY),
        steepest=_at_most(1.0), operation=lax.tanh_p,
    ),
    "logistic": Function(
        lambda: _smooth(lax.logistic, 0.0963, *_SIGMOID),
        steepest=_at_most(0.25), operation=lax.logistic_p,
    ),
    "erf": Function(
        lambda: _smooth(lax.erf, 0.968, *_ERROR, jet=_error_jet),
        steepest=_at_most(2 / math.sqrt(math.pi)), without_kernel=("cuda",), operation=lax.erf_p,
    ),
    "erfc": Function(
        lambda: _smooth(lax.erfc, 0.968, *_ERROR, jet=_complement_jet),
        steepest=_at_most(2 / math.sqrt(math.pi)), without_kernel=("cuda", "tpu"), operation=lax.erfc_p,
    ),
    "erf_inv": Function(_inverse_error_function, without_kernel=("cuda",), operation=lax.erf_inv_p),
    "atan": Function(
        lambda: _smooth(
            jnp.arctan, 0.6496, -INFINITY, -0.831575905, 0.0, 0.831575905, INFINITY, jet=_arctangent_jet
        ),
        steepest=_at_most(1.0), without_kernel=("tpu",), operation=lax.atan_p,
    ),
    "soft_sign": Function(
        lambda: _smooth(jax.nn.soft_sign, 2.0, -INFINITY, 0.0, INFINITY, jet=_softsign_jet),
        steepest=_at_most(1.0), without_kernel=("tpu",),
    ),
    "softplus": Function(
        lambda: _tail(jax.nn.softplus, 0.25, 50.0, *_SOFTPLUS), steepest=_at_most(1.0)
    ),
    "log_sigmoid": Function(
        lambda: _smooth(
            jax.nn.log_sigmoid, 0.25, -50.0, 0.481211825, 50.0,
            lines=(Line(-INFINITY, -50.0, 1.0), Line(50.0, INFINITY, 0.0)),
        ),
        steepest=_at_most(1.0),
    ),
    "silu": Function(lambda: _tail(jax.nn.silu, 0.5, 50.0, *_SILU), steepest=_at_most(1.09984)),
    "gelu": Function(
        lambda: _tail(_gelu(False), 0.7979, 20.0, *_GELU, jet=_gelu_jet),
        steepest=_at_most(1.12891), without_kernel=("cuda", "tpu"),
    ),
    "gelu_tanh": Function(
        lambda: _tail(_gelu(True), 0.7979, 20.0, *_GELU_TANH), steepest=_at_most(1.12901)
    ),
    "exp": Function(lambda: _exponential(jnp.exp, jnp.log, 1.0), operation=lax.exp_p),
    "exp2": Function(lambda: _exponential(jnp.exp2, jnp.log2, math.log(2)), operation=lax.exp2_p),
    "expm1": Function(
        lambda: _exponential(jnp.expm1, jnp.log1p, 1.0, 1.0), without_kernel=("tpu",), operation=lax.expm1_p
    ),
    "log": Function(lambda: _logarithm(jnp.log, jnp.exp), operation=lax.log_p),
    "log1p": Function(
        lambda: _logarithm(jnp.log1p, jnp.expm1, 1.0), without_kernel=("tpu",), operation=lax.log1p_p
    ),
    "sqrt": Function(lambda: _power(0.5), operation=lax.sqrt_p),
    "rsqrt": Function(lambda: _power(-0.5), operation=lax.rsqrt_p),
    "cbrt": Function(lambda: _power(1 / 3, "odd"), without_kernel=("tpu",), operation=lax.cbrt_p),
    "square": Function(lambda: _power(2, "even"), operation=lax.square_p),
    "reciprocal": Function(lambda: _power(-1, "odd")),
    "integer_pow": Function(_integer_power, 1, without_kernel=("tpu",)),
    "pow": Function(_any_power, 1, without_kernel=("tpu",)),
    "sin": Function(lambda: _sine(jnp.sin, 0.0), steepest=_at_most(1.0), operation=lax.sin_p),
    "cos": Function(lambda: _sine(jnp.cos, math.pi / 2), steepest=_at_most(1.0), operation=lax.cos_p),
    "abs": Function(
        lambda: _lines(jnp.abs, Line(-INFINITY, 0.0, -1.0), Line(0.0, INFINITY, 1.0)),
        steepest=_at_most(1.0), operation=lax.abs_p,
    ),
    "leaky_relu": Function(_leaky_relu, 1, lambda slope: max(1.0, abs(slope))),
    "clamp": Function(_clamp, 2, _at_most(1.0)),
    "elu": Function(
        _elu, 3, lambda slope, alpha, width: max(slope, alpha / width), without_kernel=("tpu",)
    ),
}  # fmt: skip
"""Every function of one number by its name."""


@cache
def curve(function: str, parameters: Parameters = ()) -> Curve:
    """The curve of a name in the table.

    **Errors:** `ArgumentError` for a name that is not there or parameters that it does not take.
    """
    if function not in FUNCTIONS:
        raise ArgumentError(f"function: expected one of {', '.join(FUNCTIONS)}, given {function!r}")
    row = FUNCTIONS[function]
    if len(parameters) != row.parameters:
        raise ArgumentError(
            f"parameters: expected {row.parameters} number(s) for {function!r}, given {parameters!r}"
        )
    return row.make(*parameters)
