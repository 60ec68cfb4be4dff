"""Whether arrays are finite."""

from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool


def are_finite(groups: Iterable[Iterable[Any]]) -> Bool[Array, " groups"]:
    """Says for each group of arrays whether all their elements are finite.

    A sum of products with zero is zero, or NaN. Compilers make one program of it, where they make several of
    a test of each element.

    **Arguments:** `groups`, of floating-point or complex arrays; at least one group.

    **Cost:** each array is read once.
    """
    dtype = jnp.result_type(float)

    def tally(x: Any) -> Array:
        return jnp.sum(jnp.real(x * 0) + jnp.imag(x * 0) if jnp.iscomplexobj(x) else x * 0).astype(dtype)

    totals = [sum(map(tally, arrays), jnp.zeros((), dtype)) for arrays in groups]
    return jnp.isfinite(jnp.stack(totals))
