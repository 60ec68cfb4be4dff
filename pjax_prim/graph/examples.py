"""The functions of one number that compositions are compared with, as examples of how they are written."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .match import PLACEHOLDERS, Pattern, make_pattern

Function = Callable[..., Any]
Numbers = tuple[float, ...]


def _same(*parameters: float) -> Numbers | None:
    return parameters


def _bounds(low: float, high: float) -> Numbers | None:
    return (low, high) if low < high else None


def _finite(*parameters: float) -> Numbers | None:
    return parameters if all(map(math.isfinite, parameters)) else None


def _below_one(slope: float) -> Numbers | None:
    return (slope,) if 0 < slope < 1 else None


def _above_one(slope: float) -> Numbers | None:
    return (slope,) if slope > 1 else None


def _elu(alpha: float) -> Numbers | None:
    return (1.0, alpha, 1.0) if 0 < alpha < math.inf else None


def _scaled_elu(slope: float, alpha: float) -> Numbers | None:
    return (slope, slope * alpha, 1.0) if 0 < min(slope, alpha) and max(slope, alpha) < math.inf else None


def _celu(alpha: float) -> Numbers | None:
    return (1.0, alpha, alpha) if 0 < alpha < math.inf else None


@dataclass(frozen=True, eq=False)
class Example:
    """One way to write a function of one number.

    - `name`: in the table of curves, or "relu", or "maximum" or "minimum" with a number.
    - `functions`: the example itself and others that differ in the form only; each takes the number and
      as many parameters as `count` says.
    - `needs`: operations of which each of the functions has one. A program that has none of them is not
      compared, and nothing is traced for it.
    - `accept`: from the parameters that a program has to those of the curve; None where it is another
      function.
    """

    name: str
    needs: set[Any]
    functions: Sequence[Function]
    count: int = 0
    accept: Callable[..., Numbers | None] = _same


def _expm1_below(x: Any, alpha: Any) -> Any:
    return jnp.where(x > 0, x, alpha * jnp.expm1(x))


def _exp_below(x: Any, alpha: Any) -> Any:
    return jnp.where(x > 0, x, alpha * (jnp.exp(x) - 1))


def _gelu_forms(below: Callable[[Any], Any]) -> list[Function]:
    """The ways to write x times one half of `below(x)`."""
    return [
        lambda x: 0.5 * x * below(x),
        lambda x: x * (0.5 * below(x)),
        lambda x: 0.5 * (x * below(x)),
        lambda x: x * below(x) / 2,
        lambda x: x / 2 * below(x),
        lambda x: x * below(x) * 0.5,
    ]


_ROOT = math.sqrt(2 / math.pi)

EXAMPLES: tuple[Example, ...] = (
    Example(
        "gelu_tanh",
        {lax.tanh_p},
        [
            jax.nn.gelu,
            *_gelu_forms(lambda x: 1 + jnp.tanh(_ROOT * (x + 0.044715 * x**3))),
            *_gelu_forms(lambda x: 1 + jnp.tanh(_ROOT * (x + 0.044715 * (x * x * x)))),
            *_gelu_forms(lambda x: 1 + jnp.tanh(_ROOT * (x + 0.044715 * x * x * x))),
            *_gelu_forms(lambda x: 1 + jnp.tanh(_ROOT * x * (1 + 0.044715 * x * x))),
            *_gelu_forms(lambda x: 1 + jnp.tanh(_ROOT * x * (1 + 0.044715 * x**2))),
        ],
    ),
    Example(
        "gelu",
        {lax.erf_p, lax.erfc_p},
        [
            lambda x: jax.nn.gelu(x, approximate=False),
            *_gelu_forms(lambda x: 1 + lax.erf(x / math.sqrt(2))),
            *_gelu_forms(lambda x: 1 + lax.erf(x * math.sqrt(0.5))),
            *_gelu_forms(lambda x: lax.erfc(-x / math.sqrt(2))),
            *_gelu_forms(lambda x: lax.erfc(-x * math.sqrt(0.5))),
        ],
    ),
    Example(
        "silu",
        {lax.exp_p, lax.logistic_p},
        [
            jax.nn.silu,
            lambda x: x / (1 + jnp.exp(-x)),
            lambda x: x * (1 / (1 + jnp.exp(-x))),
            lambda x: x * lax.reciprocal(1 + jnp.exp(-x)),
        ],
    ),
    Example(
        "softplus",
        {lax.exp_p, lax.logistic_p},
        [
            jax.nn.softplus,
            lambda x: jnp.logaddexp(0.0, x),
            lambda x: -jax.nn.log_sigmoid(-x),
            lambda x: jnp.log(1 + jnp.exp(x)),
            lambda x: jnp.log1p(jnp.exp(x)),
            lambda x: jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x))),
            lambda x: -jnp.log(jax.nn.sigmoid(-x)),
        ],
    ),
    Example(
        "log_sigmoid",
        {lax.exp_p, lax.logistic_p},
        [
            jax.nn.log_sigmoid,
            lambda x: -jnp.logaddexp(0.0, -x),
            lambda x: jnp.log(jax.nn.sigmoid(x)),
            lambda x: -jnp.log1p(jnp.exp(-x)),
            lambda x: -jnp.log(1 + jnp.exp(-x)),
            lambda x: jnp.minimum(x, 0) - jnp.log1p(jnp.exp(-jnp.abs(x))),
        ],
    ),
    Example("soft_sign", {lax.abs_p}, [jax.nn.soft_sign, lambda x: x / (1 + jnp.abs(x))]),
    Example(
        "logistic",
        {lax.tanh_p, lax.exp_p},
        [
            lambda x: 1 / (1 + jnp.exp(-x)),
            lambda x: lax.reciprocal(1 + jnp.exp(-x)),
            lambda x: jnp.exp(x) / (1 + jnp.exp(x)),
            lambda x: 0.5 * (jnp.tanh(0.5 * x) + 1),
            lambda x: 0.5 * (jnp.tanh(x / 2) + 1),
            lambda x: 0.5 * jnp.tanh(0.5 * x) + 0.5,
            lambda x: 0.5 * jnp.tanh(x / 2) + 0.5,
        ],
    ),
    Example("tanh", {lax.logistic_p}, [lambda x: 2 * jax.nn.sigmoid(2 * x) - 1]),
    Example("elu", {lax.expm1_p, lax.exp_p}, [jax.nn.elu, _expm1_below, _exp_below], 1, _elu),
    Example("elu", {lax.expm1_p}, [
        lambda x, s, a: s * jax.nn.elu(x, a), lambda x, s, a: s * _expm1_below(x, a),
    ], 2, _scaled_elu),
    Example("elu", {lax.expm1_p}, [
        jax.nn.celu, lambda x, a: jax.nn.relu(x) + a * jnp.expm1(jnp.minimum(x, 0) / a),
    ], 1, _celu),
    Example("elu", {lax.expm1_p}, [  # celu without the division by one
        lambda x, a: jnp.maximum(x, 0) + a * jnp.expm1(jnp.minimum(x, 0)),
    ], 1, _elu),
    Example("abs", {lax.neg_p}, [
        lambda x: jnp.where(x >= 0, x, -x), lambda x: jnp.where(x > 0, x, -x),
        lambda x: jnp.where(x < 0, -x, x), lambda x: jnp.maximum(x, -x),
    ]),
    Example("relu", {lax.gt_p, lax.ge_p}, [
        lambda x: jnp.where(x > 0, x, 0.0), lambda x: jnp.where(x >= 0, x, 0.0),
        lambda x: jnp.where(x < 0, 0.0, x), lambda x: jnp.where(x <= 0, 0.0, x),
        lambda x: x * (x > 0), lambda x: x * (x >= 0),
    ]),
    Example("leaky_relu", {lax.select_n_p}, [
        lambda x, a: jnp.where(x >= 0, x, a * x), lambda x, a: jnp.where(x > 0, x, a * x),
        lambda x, a: jnp.where(x < 0, a * x, x), lambda x, a: jnp.where(x <= 0, a * x, x),
    ], 1, _finite),
    Example("leaky_relu", {lax.max_p}, [lambda x, a: jnp.maximum(x, a * x)], 1, _below_one),
    Example("leaky_relu", {lax.min_p}, [lambda x, a: jnp.minimum(x, a * x)], 1, _above_one),
    Example("clamp", {lax.min_p, lax.select_n_p}, [
        lambda x, low, high: jnp.minimum(jnp.maximum(x, low), high),
        lambda x, low, high: jnp.maximum(jnp.minimum(x, high), low),
        lambda x, low, high: jnp.where(x > high, high, jnp.where(x < low, low, x)),
        lambda x, low, high: jnp.where(x < low, low, jnp.where(x > high, high, x)),
        lambda x, low, high: jnp.where(x >= high, high, jnp.where(x <= low, low, x)),
        lambda x, low, high: jnp.where(x <= low, low, jnp.where(x >= high, high, x)),
    ], 2, _bounds),
    Example("maximum", {lax.select_n_p}, [
        lambda x, c: jnp.where(x > c, x, c), lambda x, c: jnp.where(x >= c, x, c),
        lambda x, c: jnp.where(x < c, c, x), lambda x, c: jnp.where(x <= c, c, x),
    ], 1, _finite),
    Example("minimum", {lax.select_n_p}, [
        lambda x, c: jnp.where(x < c, x, c), lambda x, c: jnp.where(x <= c, x, c),
        lambda x, c: jnp.where(x > c, c, x), lambda x, c: jnp.where(x >= c, c, x),
    ], 1, _finite),
    Example("log1p", {lax.log_p}, [lambda x: jnp.log(1 + x)]),
    Example("expm1", {lax.exp_p}, [lambda x: jnp.exp(x) - 1]),
    Example("erfc", {lax.erf_p}, [lambda x: 1 - lax.erf(x)]),
    Example("erf", {lax.erfc_p}, [lambda x: 1 - lax.erfc(x)]),
    Example("rsqrt", {lax.sqrt_p}, [lambda x: 1 / jnp.sqrt(x), lambda x: jnp.sqrt(1 / x)]),
)  # fmt: skip
"""The first of several that match is taken, of those with the most operations."""


def patterns(dtype: Any, operations: frozenset[Any]) -> dict[Any, list[tuple[Example, Pattern]]]:
    """The examples in a dtype that a program of such operations may contain.

    They are given by the operation that they end in, the largest first.
    """
    needed = tuple(example for example in EXAMPLES if not operations.isdisjoint(example.needs))
    return _by_end(needed, jnp.dtype(dtype).name, bool(jax.config.read("jax_enable_x64")))


@cache
def _by_end(examples: tuple[Example, ...], dtype: str, x64: bool) -> dict[Any, list[tuple[Example, Pattern]]]:
    found: dict[Any, list[tuple[Example, Pattern]]] = {}
    for example in examples:
        for pattern in _traced(example, dtype, x64):
            found.setdefault(pattern.output.operation, []).append((example, pattern))
    for rows in found.values():
        rows.sort(key=lambda row: -row[1].size)
    return found


@cache
def _traced(example: Example, dtype: str, x64: bool) -> tuple[Pattern, ...]:
    """`x64` decides which dtypes numbers have on the way."""
    del x64
    x = jax.ShapeDtypeStruct((3,), dtype)
    placeholders = PLACEHOLDERS[: example.count]
    return tuple(make_pattern(function, [x], placeholders) for function in example.functions)
