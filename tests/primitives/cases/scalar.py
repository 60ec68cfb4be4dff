"""Functions of one number: a fine grid on every scale, then golden section around its minima."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
from scipy import special

import pjax_prim.primitives as pp

from .case import Case, Rows, around_minima, search

Function = Callable[[np.ndarray], np.ndarray]
_SCALES = np.geomspace(1e-10, 1e14, 120)
_ANYWHERE = np.concatenate([np.linspace(-30, 30, 401), -_SCALES, _SCALES])


def _quiet(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Infinities and nan are meant."""

    @wraps(function)
    def silent(*arguments: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return function(*arguments)

    return silent


def _best(f: Function, inverse: Function | None, period: float | None = None) -> Callable[..., np.ndarray]:
    @_quiet
    def best(a: np.ndarray, z: np.ndarray) -> np.ndarray:
        around = np.concatenate([-_SCALES, [0.0], _SCALES])
        points = [np.broadcast_to(_ANYWHERE, (len(a), len(_ANYWHERE))), a[:, None] + around]
        if period is not None:  # every value is taken within half of one
            points.append(a[:, None] + np.linspace(-period / 2, period / 2, 1001))
        if inverse is not None:
            wanted = z[:, None] + around
            points += [inverse(wanted), -inverse(wanted), -inverse(-wanted)]
        x = np.concatenate(points, 1)
        x = np.sort(np.where(np.isfinite(x), x, 1e9 + np.arange(x.shape[1])), 1)

        def cost(x: np.ndarray) -> np.ndarray:
            return _finite((x - a[:, None]) ** 2 + (f(x) - z[:, None]) ** 2)

        costs = cost(x)
        return np.minimum(search(cost, *around_minima(x, costs, 4)).min(1), costs.min(1))

    return best


def _finite(costs: np.ndarray) -> np.ndarray:
    """What is no number is no point of the graph."""
    return np.where(np.isnan(costs), np.inf, costs)


def case(
    function: str,
    f: Function,
    *parameters: float,
    inverse: Function | None = None,
    period: float | None = None,
    inside: Function = lambda a: a,
    kinked: bool = False,
    steep: bool = False,
) -> Case:
    """A row.

    - `f`, `inverse`: by NumPy, nan outside their domains; `period` of a function that has one.
    - `inside`: any number as one of the domain at which f is moderate.
    - `steep`: whether rounding x may change f by any amount.
    """

    f, inverse = _quiet(f), None if inverse is None else _quiet(inverse)

    @_quiet
    def cost(query: Rows, outputs: Rows, unit: np.ndarray) -> np.ndarray:
        (a, z), (x,) = query, outputs
        y = f(x)
        if steep:
            low, high = (f(x + sign * unit / 16) for sign in (-1, 1))
            y = np.clip(z, np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high))
        return _finite((x - a) ** 2 + (y - z) ** 2)

    @_quiet
    def size(a: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Rounding x relative to itself changes f by the elasticity, which is moderate near z."""
        change = np.abs(f(a * (1 + 1e-6)) - f(a * (1 - 1e-6))) / 2e-6
        change = np.minimum(change, 100 * (np.abs(a) + np.abs(z)))
        return np.abs(a) + np.abs(z) + np.where(np.isfinite(change) & (not steep), change, 0)

    best = _best(f, inverse, period)
    if steep and inverse is not None:  # the graph goes on where rounded x have no more values
        across = _best(inverse, f)
        along, best = best, lambda a, z: np.minimum(along(a, z), across(z, a))

    static: dict[str, Any] = {"function": function, "parameters": parameters}
    return Case(
        "project_scalar",
        lambda a, z: (pp.project_scalar(a, z, function, parameters),),
        pp.project_scalar_p,
        ("scalar", "scalar"),
        1,
        cost,
        best,
        size,
        lambda a, z: (inside(a), f(inside(a))),
        kinked=kinked or steep,
        static=static,
        count=150,
    )


def elu(slope: float, alpha: float, width: float) -> Function:
    return lambda x: np.where(x > 0, slope * x, alpha * np.expm1(np.minimum(x, 0) / width))


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def below(limit: float) -> Function:
    return lambda a: np.minimum(a, limit)


def away(a: np.ndarray) -> np.ndarray:
    """Not so near 0 that a power of it is huge."""
    return np.where(a < 0, -1, 1) * np.maximum(np.abs(a), 1e-2)


CASES = [
    case("tanh", np.tanh, inverse=np.arctanh),
    case("logistic", special.expit, inverse=special.logit),
    case("erf", special.erf, inverse=special.erfinv),
    case("erfc", special.erfc, inverse=special.erfcinv),
    case("erf_inv", special.erfinv, inverse=special.erf, inside=lambda a: a / (1.1 + np.abs(a)), steep=True),
    case("atan", np.arctan, inverse=np.tan),
    case("soft_sign", lambda x: x / (1 + np.abs(x)), inverse=lambda y: y / (1 - np.abs(y))),
    case("softplus", lambda x: np.logaddexp(x, 0)),
    case("log_sigmoid", lambda x: -np.logaddexp(-x, 0)),
    case("silu", lambda x: x * special.expit(x)),
    case("gelu", lambda x: x * special.ndtr(x)),
    case("gelu_tanh", gelu_tanh),
    case("exp", np.exp, inverse=np.log, inside=below(10)),
    case("exp2", np.exp2, inverse=np.log2, inside=below(10)),
    case("expm1", np.expm1, inverse=np.log1p, inside=below(10)),
    case("log", np.log, inverse=np.exp, inside=np.abs, steep=True),
    case("log1p", np.log1p, inverse=np.expm1, inside=np.abs, steep=True),
    case("sqrt", np.sqrt, inverse=lambda y: np.where(y >= 0, y * y, np.nan), inside=np.abs),
    case("rsqrt", lambda x: x**-0.5, inverse=lambda y: y**-2.0, inside=lambda a: np.abs(away(a))),
    case("cbrt", np.cbrt, inverse=lambda y: y**3),
    case("square", np.square, inverse=np.sqrt),
    case("reciprocal", lambda x: 1 / x, inverse=lambda y: 1 / y, inside=away),
    case("sin", np.sin, period=2 * np.pi),
    case("cos", np.cos, period=2 * np.pi),
    case("abs", np.abs, kinked=True),
    *(
        case(
            "integer_pow",
            lambda x, n=n: x**n,
            n,
            inverse=lambda y, n=n: np.sign(y) * np.abs(y) ** (1 / n),
            inside=away,
        )
        for n in (2.0, 3.0, 4.0, 7.0, -1.0, -2.0, -3.0)
    ),
    *(
        case(
            "pow",
            lambda x, p=p: x**p,
            p,
            inverse=lambda y, p=p: y ** (1 / p),
            inside=lambda a: np.abs(away(a)),
        )
        for p in (1.5, 2.5, 0.3, -0.7)
    ),
    case("leaky_relu", lambda x: np.where(x >= 0, x, 0.01 * x), 0.01, kinked=True),
    case("clamp", lambda x: np.clip(x, -1, 2), -1.0, 2.0, kinked=True),
    case("elu", elu(1.0, 1.0, 1.0), 1.0, 1.0, 1.0),
    case("elu", elu(1.05, 1.76, 1.0), 1.05, 1.76, 1.0, kinked=True),
    case("elu", elu(1.0, 2.0, 2.0), 1.0, 2.0, 2.0),
]
"""Each function of `primitives.curves`; those with parameters more than once."""
