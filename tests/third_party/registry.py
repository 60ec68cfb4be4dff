"""The table of models of other packages, filled by the modules of this folder."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

Problem = tuple[Any, Callable[[Any], Array]]
"""Parameters, and a loss of them."""


class Model(NamedTuple):
    """One row.

    - `make`: builds the network at a tiny size, with its loss.
    - `packages`: what it imports.
    - `worst`: the least cosine with the gradient that a leaf may have.
    - `reason`: why that is less than 0.95.
    """

    make: Callable[[], Problem]
    packages: tuple[str, ...]
    worst: float = 0.95
    reason: str = ""


MODELS: dict[str, Model] = {}


def model(name: str, *packages: str, **settings: Any) -> Callable[[Callable[[], Problem]], Any]:
    """Adds a function that makes a problem to the table."""

    def add(make: Callable[[], Problem]) -> Callable[[], Problem]:
        assert name not in MODELS
        MODELS[name] = Model(make, packages, **settings)
        return make

    return add


def key(seed: int = 0) -> Array:
    return jax.random.key(seed)


def normal(*shape: int, seed: int = 1) -> Array:
    return jax.random.normal(key(seed), shape)


def tokens(count: int, *shape: int, seed: int = 2) -> Array:
    return jax.random.randint(key(seed), shape, 0, count)


def squared(x: Array, seed: int = 3) -> Array:
    """The distance to a target."""
    return jnp.mean(jnp.square(x - jax.random.normal(key(seed), x.shape, x.real.dtype)))


def classification(logits: Array, seed: int = 4) -> Array:
    """The cross-entropy, written out, with labels along the last axis."""
    labels = tokens(logits.shape[-1], *logits.shape[:-1], seed=seed)
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1))
