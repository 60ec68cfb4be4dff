"""Rules for CPU.

XLA's CPU backend walks a reduction over a leading axis column by column, a stride of a whole
matrix apart (measured: 112 ms for 100 MB, against 2.4 ms as a product with a vector of ones).
With batch axes before it the plain mean is the faster one (9 ms against 50 ms).
"""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from pjax_prim.primitives import mean_rows_p

from . import register


def _mean_rows(x: Array) -> tuple[Array, ...]:
    if math.prod(x.shape[:-3]) > 1:
        return mean_rows_p.reference(x)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    rows = x.ndim - 3
    mean = lax.dot_general(
        jnp.full(x.shape[rows], 1 / x.shape[rows], wide),
        x.astype(wide),
        (((0,), (rows,)), ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=wide,
    )
    return (mean.astype(x.dtype),)


register(mean_rows_p, _mean_rows, platform="cpu")
