"""The squared norm of an array: what gaps and distances are sums of."""

import jax.numpy as jnp
from jaxtyping import Array

from ._definition import define


def _reference(x: Array, *counts: Array, rank: int, count: int) -> tuple[Array]:
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    squared = jnp.square(x)
    for each in counts:
        squared = squared * each.astype(x.dtype)
    # Inside of the sum a factor is no operation of its own.
    return (jnp.sum(squared if count == 1 else count * squared, tuple(range(-rank, 0))),)


squared_norm_p = define("pjax_squared_norm", _reference)
"""(..., *shape) -> (...): the sum of the squares over the last `rank` axes, in at least float32.

Each element counts `count` times, and as often as a second operand says, which broadcasts to the first. It is
a primitive because sums of few numbers need another form on CPU (`lowering.reductions`).
"""


def squared_norm(x: Array, count: int | Array = 1) -> Array:
    """The squared Euclidean norm of an array in at least float32, when each element counts `count` times."""
    if isinstance(count, int):
        return squared_norm_p.bind(x, rank=x.ndim, count=count)[0]
    count = jnp.broadcast_to(count, (1,) * (x.ndim - count.ndim) + count.shape)
    return squared_norm_p.bind(x, count, rank=x.ndim, count=1)[0]
