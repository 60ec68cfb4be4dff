"""The mean over the copies of matrix rows: the averaging half of consensus in the expanded form."""

import jax.numpy as jnp
from jaxtyping import Array

from ._definition import define


def _reference(x: Array) -> tuple[Array]:
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return (jnp.mean(x, -3, dtype=wide).astype(x.dtype),)


mean_rows_p = define("pjax_mean_rows", _reference)
"""(..., P, Q, K) -> (..., Q, K), the mean over P. A primitive because the strided reduction
needs another form on CPU (see `pjax_prim.lowering`)."""
