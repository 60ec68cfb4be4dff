"""Which function of `curves` a composition of operations is, by its values."""

import math
from collections.abc import Iterator
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from .curves import curve, functions_without_parameters

SAMPLES = np.concatenate([
    np.linspace(-8, 8, 65), [-100.0, -45.0, -20.0, 20.0, 45.0, 100.0], [-(2.0**-10), 2.0**-10]
])  # fmt: skip
"""Where a composition is evaluated, exact in every dtype; -1 and 1 are among them, and both tails."""


def recognise(values: np.ndarray, eps: float) -> tuple[str, tuple[float, ...]] | None:
    """The name and the parameters of the function with these values at `SAMPLES`.

    **Arguments:** `eps`, the resolution of the dtype they were computed in.

    **Returns:** the nearest of the functions that agree up to a few roundings, or None. "relu" is one
    name more than the table of curves has.
    """
    best, least = None, 64 * eps if eps < 1e-4 else 8 * eps
    for name, parameters, exact in _candidates(values):
        if (np.isnan(exact) != np.isnan(values)).any():
            continue
        with np.errstate(all="ignore"):
            error = np.abs(values - exact) / (1 + np.abs(exact))
        error = np.where((values == exact) | np.isnan(exact), 0, error)
        worst = float(np.max(error))
        if worst < least:
            best, least = (name, parameters), worst
    return best


@cache
def _table() -> tuple[tuple[str, np.ndarray], ...]:
    return tuple((name, _values(name, ())) for name in functions_without_parameters())


def _values(name: str, parameters: tuple[float, ...]) -> np.ndarray:
    with jax.ensure_compile_time_eval():
        return np.asarray(curve(name, parameters).value(jnp.asarray(SAMPLES)), np.float64)


def _candidates(values: np.ndarray) -> Iterator[tuple[str, tuple[float, ...], np.ndarray]]:
    yield "relu", (), np.maximum(SAMPLES, 0)
    for name, exact in _table():
        yield name, (), exact
    at = {x: float(values[np.argmin(np.abs(SAMPLES - x))]) for x in (-100.0, -1.0, 1.0, 100.0)}
    guesses = [("leaky_relu", (-at[-1.0],)), ("clamp", (at[-100.0], at[100.0]))]
    slope, alpha = at[1.0], -at[-100.0]
    if alpha > 0 and 0 < -at[-1.0] < alpha:
        guesses.append(("elu", (slope, alpha, -1 / math.log1p(at[-1.0] / alpha))))
    for name, parameters in guesses:
        if np.isfinite(parameters).all() and (name != "clamp" or parameters[0] < parameters[1]):
            if name != "elu" or min(parameters) > 0:
                yield name, parameters, _values(name, parameters)
