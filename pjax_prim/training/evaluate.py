"""Accuracy of a classifier."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

_CHUNK = 10_000


@eqx.filter_jit
def _correct(model: Callable[..., Array], x: Array | np.ndarray, y: Array | np.ndarray) -> Array:
    return jnp.sum(jnp.argmax(jax.vmap(model)(x), axis=-1) == y)


def accuracy(model: Callable[..., Array], x: np.ndarray, y: np.ndarray) -> float:
    """The share of rows of `x` whose largest output is at index `y`.

    **Cost:** one forward pass, 10,000 examples at a time.
    """
    correct = 0
    for start in range(0, len(x), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        correct += int(_correct(model, x[chunk], y[chunk]))
    return correct / len(x)
