"""Rules for CPU.

Functions summed by a reduction are recomputed there by code that does not use vector
instructions: the proximal operator of the cross-entropy takes 6 times as long.

An elementwise function as long as the solve of a dot projection becomes many loops there, so a
branch for the usual case, that all targets are near, saves more than it costs.

XLA's CPU backend walks a reduction over a leading axis column by column, a stride of a whole
matrix apart (measured: 112 ms for 100 MB, against 2.4 ms as a product with a vector of ones).
With batch axes before it the plain mean is the faster one (9 ms against 50 ms).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from pjax_prim.primitives import (
    displace_sum_relu_p,
    mean_rows_p,
    project_convolution_p,
    project_linear_p,
    prox_cross_entropy_p,
)
from pjax_prim.primitives.convolution import reference as convolution_reference
from pjax_prim.primitives.cross_entropy import prox_reference
from pjax_prim.primitives.linear import answer_blockwise
from pjax_prim.primitives.linear import reference as linear_reference

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
register(
    project_linear_p,
    partial(linear_reference, answer=answer_blockwise),
    platform="cpu",
    local=True,
)
register(
    prox_cross_entropy_p,
    partial(prox_reference, hold=lax.optimization_barrier),
    platform="cpu",
)


def _convolution(*arrays: Array, **static: Any) -> tuple[Array, ...]:
    # Else what makes the operands is fused into every loop that reads them, channels-last.
    arrays = lax.optimization_barrier(arrays)
    return convolution_reference(*arrays, answer=answer_blockwise, **static)


register(project_convolution_p, _convolution, platform="cpu", local=True)


def _stored(reference: Callable[..., tuple[Array, ...]]) -> Callable[..., tuple[Array, ...]]:
    """Results that are stored: else each of their readers computes them anew."""

    def function(*arrays: Array, **static: Any) -> tuple[Array, ...]:
        results: tuple[Array, ...] = lax.optimization_barrier(reference(*arrays, **static))
        return results

    return function


register(displace_sum_relu_p, _stored(displace_sum_relu_p.reference), platform="cpu")
