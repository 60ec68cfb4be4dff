"""Infinite numbers in the text of a function, as masks of attention and of classes have them.

Where a softmax, a logsumexp or a maximum takes minus infinity, an element is absent. Copies are vectors of
finite numbers: a state has a finite number there, of such a size that nothing depends on it.
"""

from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .ir import Environment, Equation, Value


def infinite_literals(values: Iterable[Value]) -> tuple[Value, ...]:
    """Those of the values that are infinite literals."""
    return tuple(dict.fromkeys(filter(_is_infinite, values)))


def stand_in(constants: Environment, computed: Iterable[Equation], literals: Iterable[Value]) -> Environment:
    """The constants with finite numbers in the places of infinite ones.

    They are a 64th of the largest of the dtype: the exponential of the negative one is 0, and twice they are
    finite.

    **Arguments:** `computed`, the equations of constants whose results may be infinite, and `literals`, which
    are; arrays that the function is given stay as they are.
    """
    made = {value: constants[value] for x in computed for value in x.outputs if value in constants}
    made |= {value: jnp.asarray(value.literal, value.dtype) for value in literals}
    return {**constants, **{value: _finite(array) for value, array in made.items()}}


def _is_infinite(value: Value) -> bool:
    if value.literal is None or not jnp.issubdtype(value.dtype, jnp.floating):
        return False
    return bool(np.all(np.isinf(value.literal)))


def _finite(array: Array) -> Array:
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return array
    size = jnp.asarray(float(jnp.finfo(array.dtype).max) / 64, array.dtype)
    return jnp.where(jnp.isinf(array), jnp.copysign(size, array), array)
