"""Graphs of functions of one number, as the projection onto them has to know them.

The graph of a function is cut into *arcs*: a smooth part on which the second derivative keeps its sign
and the curvature is monotone, with y as a function of x or (`swapped`) x as a function of y, whichever
is not steep. `primitives.scalar` says why that makes the nearest point easy to find.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array

Value: TypeAlias = Callable[[Array], Array]
Jet: TypeAlias = Callable[[Array], tuple[Array, Array, Array]]
Parameters: TypeAlias = tuple[float, ...]
INFINITY = math.inf


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
    """The function with its first two derivatives, by forward differentiation, which happens once a shape."""

    @partial(jax.jit, inline=True)
    def jet(x: Array) -> tuple[Array, Array, Array]:
        one = jnp.ones_like(x)

        def once(x: Array) -> tuple[Array, Array]:
            f, slope = jax.jvp(value, (x,), (one,))
            return f, slope

        (f, slope), (_, bend) = jax.jvp(once, (x,), (one,))
        return f, slope, bend

    return jet
