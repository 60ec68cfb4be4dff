"""Products and convolutions with parameters: their own derivative, damped neuron by neuron.

For a dot product of a row a and a column b the projection moves both. With the weights
v = weight (1 + |a|^2) of b and u = weight (1 + |b|^2) of a, small changes are divided by
1 + |a|^2 / v + |b|^2 / u, which lies between 1 and 1 + 2 / weight. Every row has weights of its own, so
examples do not depend on one another. What depends on no parameter cannot move, and its term is left out.
"""

import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


@jax.custom_vjp
def damp(output: Array, shares: Sequence[Array]) -> Array:
    """`output`, whose cotangent is divided by 1 + the sum of `shares`, which broadcast to it."""
    del shares
    return output


def _damp_forward(output: Array, shares: Sequence[Array]) -> tuple[Array, Sequence[Array]]:
    return output, shares


def _damp_back(shares: Sequence[Array], cotangent: Array) -> tuple[Array, None]:
    factor = 1 / (1 + functools.reduce(operator.add, shares))
    return cotangent * factor.astype(cotangent.real.dtype), None


damp.defvjp(_damp_forward, _damp_back)


def damped_dot(
    output: Array, operands: Sequence[Array], params: dict[str, Any], moves: Sequence[bool], weight: Any
) -> Array:
    """The result of a `dot_general` with damped cotangents."""
    contracted, batch = params["dimension_numbers"]
    first = len(batch[0])  # axes of the output: batch, free ones of the left, free ones of the right
    middle = operands[0].ndim - len(contracted[0])
    absent = range(middle, output.ndim), range(first, middle)
    shares = []
    for side in (0, 1):
        # The movement of one operand weakens the signal by the length of the other.
        if not moves[1 - side]:
            continue
        share = _share(operands[side], tuple(contracted[side]), weight)
        kept = [axis for axis in range(operands[side].ndim) if axis not in contracted[side]]
        free = [axis for axis in kept if axis not in batch[side]]
        share = lax.transpose(share, [kept.index(axis) for axis in (*batch[side], *free)])
        shares.append(lax.expand_dims(share, tuple(absent[side])))
    return damp(output, shares) if shares else output


def damped_convolution(
    output: Array, operands: Sequence[Array], params: dict[str, Any], moves: Sequence[bool], weight: Any
) -> Array:
    """The result of a `conv_general_dilated` with damped cotangents.

    A row is an example: its patches share one length, their mean over positions.
    """
    if params["batch_group_count"] != 1:
        return output
    numbers = params["dimension_numbers"]
    image, kernel = operands
    shares = []
    if moves[1]:
        shape = [1] * output.ndim
        batch, features, *space = numbers.lhs_spec
        window = 1
        for axis in numbers.rhs_spec[2:]:
            window *= kernel.shape[axis]
        positions = 1
        for axis in space:
            positions *= image.shape[axis]
        scale = window / (positions * params["feature_group_count"]) if positions else 0.0
        row = _share(image, (features, *space), weight, scale)
        shape[numbers.out_spec[0]] = image.shape[batch]
        shares.append(lax.reshape(row, tuple(shape)))
    if moves[0]:
        column = _share(kernel, tuple(numbers.rhs_spec[1:]), weight)
        shape = [1] * output.ndim
        shape[numbers.out_spec[1]] = kernel.shape[numbers.rhs_spec[0]]
        shares.append(lax.reshape(column, tuple(shape)))
    return damp(output, shares) if shares else output


def _share(x: Array, axes: tuple[int, ...], weight: Any, scale: float = 1.0) -> Array:
    """n / (weight (1 + n)) with n the squared length along axes, in at least float32."""
    x = lax.stop_gradient(x)
    wide = jnp.promote_types(x.real.dtype, jnp.float32)
    x = jnp.abs(x) if jnp.iscomplexobj(x) else x
    norm = jnp.sum(lax.square(x.astype(wide)), axes)
    if scale != 1.0:
        norm = norm * jnp.asarray(scale, wide)
    # For infinite lengths the share is that of very large ones, not NaN.
    return (1 - 1 / (1 + norm)) / jnp.asarray(weight, wide)


DAMPED = {lax.dot_general_p: damped_dot, lax.conv_general_dilated_p: damped_convolution}
"""The primitives whose own derivative is damped."""
