"""Reductions of few numbers as one loop, for XLA's CPU backend.

That backend gives a reduction of at least 4096 single-precision numbers, with the elementwise operations that
make them, to a library. Of others it makes three loops where an axis is longer than 32: what is reduced,
groups of 32, and these. Where no axis is longer it is one loop. Many Booleans are reduced as numbers.
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

_LEAST = 4096
"""How many numbers a reduction has at least that the library computes."""

_GROUP = 32

_KINDS: dict[Any, Any] = {
    lax.reduce_sum_p: jnp.sum,
    lax.reduce_max_p: jnp.max,
    lax.reduce_min_p: jnp.min,
    lax.reduce_or_p: jnp.any,
    lax.reduce_and_p: jnp.all,
}


def grouped(equation: Any) -> Callable[..., tuple[Array]] | None:
    """What computes the equation as one loop; None if it already is, or none would."""
    reduce = _KINDS.get(equation.primitive)
    if reduce is None:
        return None
    aval = equation.invars[0].aval
    axes = equation.params["axes"]
    if not all(isinstance(length, int) for length in aval.shape):
        return None
    if max((aval.shape[axis] for axis in axes), default=0) <= _GROUP:
        return None
    if math.prod(aval.shape) >= _LEAST:
        if equation.primitive is lax.reduce_or_p:
            return lambda x: (jnp.max(x.astype(jnp.float32), axes) > 0,)
        if equation.primitive is lax.reduce_and_p:
            return lambda x: (jnp.min(x.astype(jnp.float32), axes) > 0,)
        return None
    shape: list[int] = []
    reduced: list[int] = []
    for axis, length in enumerate(aval.shape):
        parts = _parts(length) if axis in axes else (length,)
        if parts is None:
            return None
        if axis in axes:
            reduced += range(len(shape), len(shape) + len(parts))
        shape += parts

    def apply(x: Array) -> tuple[Array]:
        # Behind the barrier XLA does not undo the division; it is gone before loops are made.
        return (reduce(lax.optimization_barrier(x.reshape(shape)), tuple(reduced)),)

    return apply


def _parts(length: int) -> tuple[int, ...] | None:
    """Factors of a length, none above that of a group; None if there are none such."""
    if length <= _GROUP:
        return (length,)
    part = next((n for n in range(_GROUP, 1, -1) if length % n == 0), None)
    rest = None if part is None else _parts(length // part)
    return None if part is None or rest is None else (*rest, part)
