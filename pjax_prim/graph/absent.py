"""Minus infinity in what a function computes from constants, as masks of attention and of classes have it.

Where a softmax, a logsumexp or a maximum takes it, an element is absent. Copies are vectors of finite
numbers: a state has a finite number there, so low that nothing depends on it.
"""

from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .ir import Environment, Equation, Value


def absences(equations: Iterable[Equation]) -> tuple[Value, ...]:
    """The literals of equations that are minus infinity."""
    inputs = (value for equation in equations for value in equation.inputs if value.literal is not None)
    return tuple(dict.fromkeys(filter(_is_absent, inputs)))


def stand_in(constants: Environment, literals: Iterable[Value]) -> Environment:
    """The constants, and the literals, with a finite number for each that is minus infinity.

    It is a 64th of the lowest number of the dtype: its exponential is 0, and twice it is finite.
    """
    known = {**constants, **{value: jnp.asarray(value.literal, value.dtype) for value in literals}}
    return {value: _standing(array) for value, array in known.items()}


def _is_absent(value: Value) -> bool:
    return bool(jnp.issubdtype(value.dtype, jnp.floating)) and bool(np.all(np.isneginf(value.literal)))


def _standing(array: Array) -> Array:
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return array
    low = float(jnp.finfo(array.dtype).min) / 64
    return jnp.where(jnp.isneginf(array), jnp.asarray(low, array.dtype), array)
