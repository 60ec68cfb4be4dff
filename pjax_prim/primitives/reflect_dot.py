"""The dot product's part of a Douglas-Rachford step, fused so that copies are read few times."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._definition import define
from .dot import coefficients, multiplier


def _reference(
    a: Array, b: Array, mean_a: Array, mean_b: Array, z: Array, *, relaxation: float
) -> tuple[Array, Array, Array, Array]:
    r"""With the reflections $u = 2m - x$ and $\Delta u_a = c u_a + e u_b$ (`dot.coefficients`).

    The sums and the updates are written in the copies and the means, never in the reflections:
    a value of the copies' size that several of them share would be stored.
    """
    dtypes = a.dtype, b.dtype
    wide = jnp.promote_types(jnp.result_type(a, b, z), jnp.float32)
    a, b, mean_a, mean_b, z = (x.astype(wide) for x in (a, b, mean_a, mean_b, z))

    def norm(x: Array) -> Array:
        return jnp.sum(x * x, -1)

    product = jnp.einsum(
        "...pk,...qk->...pq", mean_a[..., 0, :], mean_b[..., 0, :, :],
        precision=jax.lax.Precision.HIGHEST,
    )  # fmt: skip
    first_a, first_b = _apart(mean_a, mean_b)
    p = 4 * product + jnp.sum(a * b - 2 * (a * first_b + b * first_a), -1)
    first_a, first_b = _apart(mean_a, mean_b)
    q = 4 * (norm(mean_a) + norm(mean_b)) + jnp.sum(
        a * (a - 4 * first_a) + b * (b - 4 * first_b), -1
    )
    s, d = (jnp.maximum(0.25 * q + half, 0) for half in (0.5 * p, -0.5 * p))
    u, extra = multiplier(s, d, z - p)
    output = z - u / (1 + jnp.abs(u))
    c, k, sign = coefficients(u)
    e = sign * (c + k)
    step = jnp.sqrt(extra)

    def shift(
        x: Array, y: Array, mean_x: Array, mean_y: Array, rate: float, keep: float
    ) -> Array:
        """keep x + rate (P u - mean) for one of the two vectors, without the step."""
        mean_x, mean_y, own, other, ahead, across = _apart(
            mean_x,
            mean_y,
            (keep - rate * (1 + c))[..., None],
            (-rate * e)[..., None],
            (rate * (1 + 2 * c))[..., None],
            (2 * rate * e)[..., None],
        )
        return own * x + other * y + ahead * mean_x + across * mean_y

    rate = 2 * relaxation
    moved = []
    squared = jnp.zeros_like(p)
    for x, y, mean_x, mean_y, along in (
        (a, b, mean_a, mean_b, step),
        (b, a, mean_b, mean_a, sign * step),
    ):
        # Where the minimisers form a sphere, the step is along the first axis.
        first = shift(*(v[..., :1] for v in (x, y, mean_x, mean_y)), 1, 0)[..., 0]
        squared += jnp.sum(jnp.square(shift(x, y, mean_x, mean_y, 1, 0)), -1)
        squared += along * (2 * first + along)
        new = shift(x, y, mean_x, mean_y, rate, 1)
        column = new[..., :1] + rate * along[..., None]
        moved.append(jax.lax.dynamic_update_slice(new, column, (0,) * new.ndim))
    new_a, new_b = moved
    return new_a.astype(dtypes[0]), new_b.astype(dtypes[1]), output, jnp.maximum(squared, 0)


def _apart(*small: Array) -> tuple[Array, ...]:
    """Values that the compiler cannot share with other uses, and so broadcasts in each anew."""
    return jax.lax.optimization_barrier(small)


reflect_dot_p = define("pjax_reflect_dot", _reference)
"""`(a, b, mean_a, mean_b, z) -> (a', b', output, squared)`, static `relaxation`.

a, b (..., P, Q, K) are copies, mean_a (..., P, 1, K) and mean_b (..., 1, Q, K) the first shadow,
z (..., P, Q) the queried outputs. With u = 2 mean - x and the dot projection P, the results are
x + 2 relaxation (P u - mean), the output of P u, and |P u - mean|^2. Source: `project_dot`."""
