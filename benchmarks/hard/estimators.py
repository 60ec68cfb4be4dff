"""Gradients of hard functions as they are usually estimated: the function as it is, and a made-up derivative.

They are here, and not in the networks: those of `examples/hard` have their hard function as an argument.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

import pjax_prim as pjp

Hard = Callable[[Array], Array]


def estimated(function: Hard, derivative: Callable[[Array, Array], Array]) -> Hard:
    """`function`, whose derivative at x in a direction t is `derivative(x, t)`."""

    @jax.custom_jvp
    def value(x: Array) -> Array:
        return function(x)

    @value.defjvp
    def rule(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
        return value(*primals), derivative(*primals, *tangents)

    return value


def straight_through(function: Hard) -> Hard:
    """The derivative of the identity."""
    return estimated(function, lambda x, t: t)


def by_softmax(x: Array, t: Array) -> Array:
    """The derivative of the softmax, for a choice of the largest."""
    return jax.jvp(jax.nn.softmax, (x,), (t,))[1]


def arctan(threshold: float) -> Callable[[Array, Array], Array]:
    """That of arctan(pi x) / pi with the distance x from a threshold (snnTorch's default, width 2)."""
    return lambda x, t: t / (1 + jnp.square(math.pi * (x - threshold)))


def fast_sigmoid(threshold: float, slope: float = 10.0) -> Callable[[Array, Array], Array]:
    """That of x / (1 + slope |x|) with the distance x from a threshold (SuperSpike)."""
    return lambda x, t: t / jnp.square(1 + slope * jnp.abs(x - threshold))


def chooses(derivative: Callable[[Array, Array], Array]) -> Hard:
    """The one-hot of the largest with another derivative."""
    return estimated(pjp.one_hot_argmax, derivative)
