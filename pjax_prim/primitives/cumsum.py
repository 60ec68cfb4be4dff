r"""Projection onto the graph of the cumulative sum, {(a, z): z_i = a_1 + ... + a_i}.

With r the residual of the outputs, the outputs move by the d that minimises $|Dd|^2 + |d - r|^2$, where
D takes differences: $(D^T D + 1) d = r$. The matrix is tridiagonal with constant entries, so its
elimination is two linear recurrences with known coefficients.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from . import _arguments as arguments
from ._definition import define


def _pivots(n: int) -> np.ndarray:
    """The pivots of the elimination, first to last; the diagonal is 3, ..., 3, 2 beside entries of -1."""
    pivots = np.empty(n)
    for i in range(n):
        pivots[i] = (2.0 if i == n - 1 else 3.0) - (1 / pivots[i - 1] if i else 0)
    return pivots


def _recur(factors: np.ndarray, terms: Array, *, reverse: bool) -> Array:
    """y_i = factor_i y_(i-1) + term_i along the last axis, in logarithmically many passes."""
    factor = jnp.broadcast_to(jnp.asarray(factors, terms.dtype), terms.shape)

    def join(first: tuple[Array, Array], then: tuple[Array, Array]) -> tuple[Array, Array]:
        return first[0] * then[0], then[0] * first[1] + then[1]

    result: Array = jax.lax.associative_scan(join, (factor, terms), reverse=reverse, axis=terms.ndim - 1)[1]
    return result


def _displace_reference(residual: Array) -> tuple[Array, Array]:
    (residual,) = arguments.widen(residual)
    if residual.shape[-1] == 0:
        return residual, residual
    pivots = _pivots(residual.shape[-1])
    terms = residual / jnp.asarray(pivots, residual.dtype)
    down = _recur(np.concatenate([[0.0], 1 / pivots[1:]]), terms, reverse=False)
    output = _recur(np.concatenate([1 / pivots[:-1], [0.0]]), down, reverse=True)
    before = jnp.concatenate([jnp.zeros_like(output[..., :1]), output[..., :-1]], -1)
    return arguments.finite_or_zero(output - before), arguments.finite_or_zero(output)


displace_cumsum_p = define("pjax_displace_cumsum", _displace_reference)
"""r -> displacements of the inputs and of the outputs, where the outputs are to move by r."""


def _reference(a: Array, z: Array) -> tuple[Array]:
    dtype = a.dtype
    a, z = arguments.widen(a, z)
    a, z = jnp.broadcast_arrays(a, z)
    step = _displace_reference(z - jnp.cumsum(a, -1))[0]
    return ((a + arguments.missing_where(step, z)).astype(dtype),)


project_cumsum_p = define("pjax_project_cumsum", _reference)


def project_cumsum(a: Float[Array, " n"], z: Float[Array, " n"]) -> Float[Array, " n"]:
    r"""The input of the nearest point of $\{(a, z) : z_i = \sum_{j \le i} a_j\}$:

    $$\arg\min_{a'} |a' - a|^2 + \textstyle\sum_i (\sum_{j \le i} a'_j - z_i)^2.$$

    **Arguments:** `a`, `z`: vectors of one length n, at least 1. It takes one query; use `jax.vmap` for a
    batch.

    **Returns:** the projected `a`. It is unique.

    **Errors:** `ArgumentError` for shapes or dtypes other than these.

    **Cost:** one cumulative sum and two scans.
    """
    a, z = arguments.floating(a=a, z=z)
    arguments.rank(1, a=a, z=z)
    arguments.same_shape(a=a, z=z)
    arguments.not_empty(a=a)
    (moved,) = project_cumsum_p.bind(a, z)
    return moved
