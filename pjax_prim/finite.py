"""Sums of many scalars, and whether arrays are finite."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .primitives import squared_norm


def are_finite(groups: Iterable[Iterable[Any]]) -> Bool[Array, " groups"]:
    """Says for each group of arrays whether all their elements are finite.

    A sum of products with zero is zero, or NaN. Compilers make one program of it, where they make several of
    a test of each element.

    **Arguments:** `groups`, of floating-point or complex arrays; at least one group.

    **Cost:** each array is read once.
    """
    dtype = jnp.result_type(float)

    def tally(x: Any) -> Array:
        zero = x * 0
        parts = jnp.real(zero) + jnp.imag(zero) if jnp.iscomplexobj(x) else zero
        return squared_norm(parts).astype(dtype)

    tallies = [[tally(x) for x in arrays] for arrays in groups]
    return jnp.isfinite(sums(tallies, dtype))


def sums(terms: Sequence[Sequence[Array]], dtype: Any) -> Float[Array, " groups"]:
    """The sums of groups of scalars.

    Stacked, they are added in one loop, where sums of scalars would be a loop each.
    """
    flat = [term for group in terms for term in group]
    if not flat:
        return jnp.zeros(len(terms), dtype)
    group = np.repeat(np.arange(len(terms)), [len(x) for x in terms])
    belongs = group == np.arange(len(terms))[:, None]
    return jnp.sum(jnp.where(belongs, jnp.stack(flat), 0), 1)
