"""Which operations are linear in what depends on parameters."""

import jax.numpy as jnp
from jax import lax

from ..rules import Movement, RuleContext, meaning_of
from .ir import CARRY, Equation, Value

_LINEAR = {
    lax.add_p, lax.convert_element_type_p, lax.copy_p, lax.cumsum_p, lax.neg_p, lax.reduce_precision_p,
    lax.psum_p, lax.reduce_sum_p, lax.reduce_window_sum_p, lax.sub_p, CARRY,
}  # fmt: skip
"""Linear in all that they read."""

BILINEAR = {lax.dot_general_p, lax.mul_p, lax.conv_general_dilated_p}
"""Linear in one operand where the other is constant."""


def is_linear(equation: Equation, varying: set[Value]) -> bool:
    """Whether results are real, and weighted sums of elements of what they are made of."""
    moved = [value in varying for value in equation.inputs]
    if not all(jnp.issubdtype(x.dtype, jnp.floating) for x in equation.outputs):
        return False
    if equation.primitive in _LINEAR:
        return True
    if equation.primitive in BILINEAR:
        return sum(moved) == 1
    if equation.primitive is lax.div_p:
        return not moved[1]
    if equation.primitive is lax.integer_pow_p:
        return bool(equation.params["y"] == 1)
    constant, literals = tuple(not x for x in moved), (None,) * len(moved)
    context = RuleContext(
        equation.primitive, equation.params, equation.inputs, equation.outputs, constant, literals
    )
    return isinstance(meaning_of(context), Movement)
