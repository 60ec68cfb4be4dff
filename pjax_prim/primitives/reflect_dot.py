"""The dot product's part of a Douglas-Rachford step, fused so that copies are read few times.

Copies a, b are (..., P, Q, K); means of them (..., P, 1, K) and (..., 1, Q, K); the relaxation
(..., 1, 1); everything else is (..., P, Q). Displacements are held as the coefficients of `dot.displacement`.
Sums and updates are written in copies and means, never in projected or reflected copies: a
value of the copies' size that several results share would be stored.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._arguments import on_first, widen
from ._definition import define
from .dot import displacement
from .mean_rows import mean_rows_p


def displacement_of_norms(s: Array, d: Array, z: Array) -> tuple[Array, Array, Array, Array, Array]:
    """`displacement` from s = |a + b|^2/4 and d = |a - b|^2/4.

    Both are sums of their own: as |a|^2 + |b|^2 +- 2 a . b they cancel for parallel vectors. Their
    difference a . b is within rounding of |a|^2 + |b|^2, which moves the multiplier by rounding.
    """
    return displacement(s, d, z - (s - d), z)


def _displace_reference(a: Array, b: Array, z: Array) -> tuple[Array, ...]:
    dtypes = a.dtype, b.dtype
    a, b, z = widen(a, b, z)
    c, e, step_a, step_b, output = displacement_of_norms(quarter_norm(a + b), quarter_norm(a - b), z)
    keep, cross = (1 + 2 * c)[..., None], 2 * e[..., None]
    mean_a = jnp.mean(keep * a + cross * b, -2)
    (mean_b,) = mean_rows_p.bind(keep * b + cross * a)
    mean_a = (mean_a + on_first(2 * jnp.mean(step_a, -1), mean_a)).astype(dtypes[0])
    mean_b = (mean_b + on_first(2 * jnp.mean(step_b, -2), mean_b)).astype(dtypes[1])
    return c, e, step_a, step_b, output, mean_a, mean_b


def over_batch(x: Array, relaxation: Array) -> Array:
    """What there is one of for each copy, with the batch axes of the relaxation too."""
    return jnp.broadcast_to(x, jnp.broadcast_shapes(x.shape, relaxation.shape))


def quarter_norm(x: Array) -> Array:
    return 0.25 * jnp.sum(jnp.square(x), -1)


displace_dot_p = define("pjax_displace_dot", _displace_reference, version=2)
"""`(a, b, z) -> (c, e, r_a, r_b, output, mean_a, mean_b)`: the dot projection P as coefficients.

The means, (..., P, K) and (..., Q, K), are those of the reflected copies 2 P x - x."""


def _leave_reference(
    a: Array,
    b: Array,
    mean_a: Array,
    mean_b: Array,
    c: Array,
    e: Array,
    step_a: Array,
    step_b: Array,
    z: Array,
    relaxation: Array,
) -> tuple[Array, ...]:
    c = over_batch(c, relaxation)
    zero = jnp.zeros_like(c)
    a, b, squared = _update(a, b, mean_a, mean_b, c, e, zero + 1, zero, -step_a, -step_b, relaxation)
    # Behind a barrier, or XLA would compute the updates again for their norms and means.
    a, b = jax.lax.optimization_barrier((a, b))
    return (a, b, squared, *_displace_reference(a, b, z))


leave_dot_p = define("pjax_leave_dot", _leave_reference, version=3)
"""`(a, b, mean_a, mean_b, c, e, r_a, r_b, z, relaxation) -> (a', b', squared, ...)`.

From the projection P x = x + displacement to the other shadow m: x' = x + 2 relaxation (m - P x), and
|m - P x|^2; then what `displace_dot` gives for x' and z, which begins the next step."""


def _reflect_reference(
    a: Array, b: Array, mean_a: Array, mean_b: Array, z: Array, relaxation: Array
) -> tuple[Array, ...]:
    x, y, mean_x, mean_y, z = widen(a, b, mean_a, mean_b, over_batch(z, relaxation))
    s = quarter_norm((x + y) - (_apart(2 * mean_x) + _apart(2 * mean_y)))
    d = quarter_norm((x - y) + (_apart(-2 * mean_x) - _apart(-2 * mean_y)))
    c, e, step_a, step_b, output = displacement_of_norms(s, d, z)
    moved_a, moved_b, squared = _update(
        a, b, mean_a, mean_b, c, e, 1 + 2 * c, 2 * e, step_a, step_b, relaxation
    )
    # Behind a barrier, or XLA would compute the updates again for their means.
    stored_a, stored_b = jax.lax.optimization_barrier((moved_a, moved_b))
    (new_mean_b,) = mean_rows_p.bind(stored_b)
    return stored_a, stored_b, output, squared, jnp.mean(stored_a, -2), new_mean_b


reflect_dot_p = define("pjax_reflect_dot", _reflect_reference, version=2)
"""`(a, b, mean_a, mean_b, z, relaxation) -> (a', b', output, squared, new_mean_a, new_mean_b)`.

From the shadow m through the reflection u = 2 m - x to its projection P u: x + 2 relaxation
(P u - m), the output of P u, and |P u - m|^2. The new means are (..., P, K) and (..., Q, K)."""


def _update(
    a: Array,
    b: Array,
    mean_a: Array,
    mean_b: Array,
    c: Array,
    e: Array,
    ahead: Array,
    across: Array,
    step_a: Array,
    step_b: Array,
    relaxation: Array,
) -> tuple[Array, Array, Array]:
    """x + 2 relaxation v and |v|^2 for v = ahead m + across m' - (1 + c) x - e x' + step e_1."""
    dtypes = a.dtype, b.dtype
    a, b, mean_a, mean_b = widen(a, b, mean_a, mean_b)

    def combine(
        x: Array, y: Array, mean_x: Array, mean_y: Array, rate: Array | float, keep: float, unit: float
    ) -> Array:
        """keep x + rate v, without the step."""
        weights = (keep - rate * (1 + c), -rate * e, rate * ahead / unit, rate * across / unit)
        vectors = (x, y, _apart(unit * mean_x), _apart(unit * mean_y))
        first, *rest = (_apart(w / unit)[..., None] * v for w, v in zip(weights, vectors, strict=True))
        return unit * sum(rest, first)

    rate = 2 * relaxation.astype(a.dtype)
    moved = []
    squared = _row_norm(combine(a, b, mean_a, mean_b, 1, 0, 1), combine(b, a, mean_b, mean_a, 1, 0, 1))
    for x, y, mean_x, mean_y, step, dtype, unit in (
        (a, b, mean_a, mean_b, step_a, dtypes[0], 4),
        (b, a, mean_b, mean_a, step_b, dtypes[1], 8),
    ):
        first = combine(x[..., :1], y[..., :1], mean_x[..., :1], mean_y[..., :1], 1, 0, 1)[..., 0]
        squared += step * (2 * first + step)
        new = combine(x, y, mean_x, mean_y, rate, 1, unit)
        column = new[..., :1] + (rate * step)[..., None]
        new = jax.lax.dynamic_update_slice(new, column, (0,) * new.ndim)
        moved.append(new.astype(dtype))
    return moved[0], moved[1], jnp.maximum(squared, 0)


def _row_norm(a: Array, b: Array) -> Array:
    """|a|^2 + |b|^2 over the last axis, in one pass."""
    return jnp.sum(jnp.square(a) + jnp.square(b), -1)


def _apart(x: Array) -> Array:
    """The same numbers, behind an operation that the compiler does not look through.

    XLA's CPU backend stores what several sums broadcast, in the size of the copies. So each use has
    small arrays of its own, in units (powers of two) that differ.
    """
    kept = jnp.finfo(x.dtype)
    return jax.lax.reduce_precision(x, kept.nexp, kept.nmant)
