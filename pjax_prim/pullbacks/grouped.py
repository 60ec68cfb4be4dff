"""Convolutions with groups in the user's program: what their filters get back is right on every mesh.

The derivative that JAX gives them is a convolution that XLA divides wrongly over devices, and one with groups
of the batch it does not divide at all (`primitives._window`).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from .. import primitives as pp
from ..rules.convolution import inverse, permuted, window_of


def has_groups(equation: Any) -> bool:
    """Whether an equation is a convolution with groups."""
    if equation.primitive is not lax.conv_general_dilated_p:
        return False
    return equation.params["feature_group_count"] * equation.params["batch_group_count"] > 1


def convolve(params: dict[str, Any], lhs: Array, rhs: Array) -> Array:
    """A `conv_general_dilated` of these parameters, whose derivative by its filters is `correlate_p`."""
    numbers = params["dimension_numbers"]
    specs = numbers.lhs_spec, numbers.rhs_spec
    window = window_of(params, permuted(rhs.shape, numbers.rhs_spec)[2:])
    precision, dtype = params["precision"], params["preferred_element_type"]

    def plain(lhs: Array, rhs: Array) -> Array:
        x, w = jnp.transpose(lhs, specs[0]), jnp.transpose(rhs, specs[1])
        return jnp.transpose(window.convolve(x, w, precision, dtype), inverse(numbers.out_spec))

    @jax.custom_vjp
    def operation(lhs: Array, rhs: Array) -> Array:
        return plain(lhs, rhs)

    def back(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
        lhs, rhs = saved
        (of_lhs,) = jax.linear_transpose(lambda x: plain(x, rhs), lhs)(cotangent)
        (of_rhs,) = pp.correlate_p.bind(
            jnp.transpose(lhs, specs[0]),
            jnp.transpose(cotangent, numbers.out_spec),
            window=window,
            precision=precision,
            dtype=rhs.dtype,
        )
        return of_lhs, jnp.transpose(of_rhs, inverse(specs[1]))

    operation.defvjp(lambda lhs, rhs: (plain(lhs, rhs), (lhs, rhs)), back)
    result: Array = operation(lhs, rhs)
    return result
