"""Projection onto the graph of the sum, {(a, z): z = a_1 + ... + a_n}."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from . import _arguments as arguments
from ._definition import define


def _displace_reference(total: Array, z: Array, *number: Array, inputs: int | None = None) -> tuple[Array]:
    total, z, *rest = arguments.widen(total, z, *number)
    k = rest[0] if inputs is None else inputs
    return (arguments.missing_where(arguments.finite_or_zero((z - total) / (k + 1)), z),)


displace_sum_p = define("pjax_displace_sum", _displace_reference)
"""(s, z) -> d: how far each of `inputs` inputs of sum s moves when their sum is to be z. The same
for all of them, so that it is one array however many there are. Without `inputs` their number is a third
operand, which may be no integer: inputs whose squared distance has a weight w count 1 / w each."""


def _reference(a: Array, z: Array) -> tuple[Array]:
    dtype = a.dtype
    a, z = arguments.widen(a, z)
    (step,) = _displace_reference(jnp.sum(a, -1), z, inputs=a.shape[-1])
    return ((a + step[..., None]).astype(dtype),)


project_sum_p = define("pjax_project_sum", _reference)


def project_sum(a: Float[Array, " n"], z: Float[Array, ""]) -> Float[Array, " n"]:
    r"""The input of the nearest point of $\{(a, z) : z = \sum_i a_i\}$:

    $$\arg\min_{a'} |a' - a|^2 + (\textstyle\sum_i a'_i - z)^2.$$

    **Arguments:**

    - `a`: a vector of length n, at least 1.
    - `z`: the queried output, a scalar.

    It takes one query; use `jax.vmap` for a batch.

    **Returns:** every entry moved by $(z - \sum_i a_i)/(n + 1)$. It is unique. An input whose sum
    overflows the dtype is returned unchanged.

    **Errors:** `ArgumentError` for shapes or dtypes other than these.

    **Cost:** one sum, one update.
    """
    a, z = arguments.vector_and_number(a, z)
    (moved,) = project_sum_p.bind(a, z)
    return moved
