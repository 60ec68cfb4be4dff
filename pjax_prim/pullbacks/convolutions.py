"""Convolutions of the user's program by a primitive of this package, where JAX's own do not serve.

What filters with groups get back is a convolution that XLA divides wrongly over devices, and one with groups
of the batch it does not divide at all (`primitives._window`). Inside of a loop XLA's CPU backend takes up to
a hundred times as long for a convolution that is not channels-last (`lowering.cpu`).
"""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from .. import primitives as pp
from ..rules.convolution import inverse, permuted, window_of


def is_convolution(equation: Any) -> bool:
    """Whether an equation is a convolution."""
    return equation.primitive is lax.conv_general_dilated_p


def has_groups(equation: Any) -> bool:
    """Whether an equation is a convolution with groups."""
    if not is_convolution(equation):
        return False
    return equation.params["feature_group_count"] * equation.params["batch_group_count"] > 1


def convolve(params: dict[str, Any], lhs: Array, rhs: Array) -> Array:
    """A `conv_general_dilated` of these parameters."""
    numbers = params["dimension_numbers"]
    (output,) = pp.convolve_p.bind(
        jnp.transpose(lhs, numbers.lhs_spec),
        jnp.transpose(rhs, numbers.rhs_spec),
        window=window_of(params, permuted(rhs.shape, numbers.rhs_spec)[2:]),
        precision=params["precision"],
        output_dtype=params["preferred_element_type"],
    )
    return jnp.transpose(output, inverse(numbers.out_spec))
