"""Products and convolutions with parameters: their own derivative, damped neuron by neuron.

For a dot product of a row a and a column b the projection moves both. With the weights
v = weight (1 + |a|^2) of b and u = weight (1 + |b|^2) of a, small changes are divided by
1 + |a|^2 / v + |b|^2 / u, which lies between 1 and 1 + 2 / weight. Every row has weights of its own, so
examples do not depend on one another. What depends on no parameter cannot move, and its term is left out.
"""

import functools
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def damp(output: Array, lengths: Sequence[Array], weight: Array, order: tuple[int, ...]) -> Array:
    """`output`, whose cotangent is divided by 1 + the sum of n / (weight (1 + n)) over the `lengths` n.

    They are the squared lengths of the rows of one operand or of both. `order` is the order of axes in which
    that happens, and in which lengths broadcast: with the axes of a parameter last, as layers arrange their
    outputs, the transpositions around it cancel.
    """
    del lengths, weight, order
    return output


def _damp_forward(
    output: Array, lengths: Sequence[Array], weight: Array, order: tuple[int, ...]
) -> tuple[Array, Any]:
    del order
    return output, (lengths, weight)


def _damp_back(order: tuple[int, ...], saved: Any, cotangent: Array) -> tuple[Array, None, None]:
    """One quotient of numbers that depend on the cotangent.

    A factor of the size of the output would be computed early and kept; quotients of lengths would be
    programs of their own, since compilers do not repeat quotients.
    """
    lengths, weight = saved
    scale = functools.reduce(operator.mul, (1 + n for n in lengths), weight)
    first, *second = lengths
    rest = first * (1 + second[0]) + second[0] * (1 + first) if second else first
    wide = lax.transpose(cotangent, order).astype(jnp.result_type(cotangent, scale))
    damped = (wide * scale / (scale + rest)).astype(cotangent.dtype)
    return lax.transpose(damped, [order.index(axis) for axis in range(len(order))]), None, None


damp.defvjp(_damp_forward, _damp_back)


class Product(NamedTuple):
    """A product of operands that depend on parameters.

    - `operands`, `params`: of its equation.
    - `moves`: for each operand whether it depends on a parameter.
    - `weighs`: for each operand whether it is one.
    - `weight`: of the settings of `pjp.displacement`.
    """

    operands: Sequence[Array]
    params: dict[str, Any]
    moves: Sequence[bool]
    weighs: Sequence[bool]
    weight: Any


def damped_dot(output: Array, product: Product) -> Array:
    """The result of a `dot_general` with damped cotangents."""
    contracted, batch = product.params["dimension_numbers"]
    ranks = [x.ndim - len(axes) for x, axes in zip(product.operands, contracted, strict=True)]
    first, middle = len(batch[0]), ranks[0]  # axes of the output: batch, free ones of the left, of the right
    free = range(first, middle), range(middle, output.ndim)
    last = 0 if product.weighs[0] and not product.weighs[1] else 1
    lengths = []
    for side in (0, 1):
        # The movement of one operand weakens the signal by the length of the other.
        if not product.moves[1 - side]:
            continue
        operand = product.operands[side]
        length = _squared_length(operand, tuple(contracted[side]))
        kept = [axis for axis in range(operand.ndim) if axis not in contracted[side]]
        axes = [*batch[side], *(axis for axis in kept if axis not in batch[side])]
        length = lax.transpose(length, [kept.index(axis) for axis in axes])
        other = len(free[1 - side])
        absent = range(first, first + other) if side == last else range(ranks[side], output.ndim)
        lengths.append(lax.expand_dims(length, tuple(absent)))
    order = (*range(first), *free[1 - last], *free[last])
    return _damped(output, lengths, product.weight, order)


def damped_convolution(output: Array, product: Product) -> Array:
    """The result of a `conv_general_dilated` with damped cotangents.

    A row is an example: its patches share one length, their mean over positions.
    """
    params, moves = product.params, product.moves
    if params["batch_group_count"] != 1:
        return output
    numbers = params["dimension_numbers"]
    image, kernel = product.operands
    lengths = []
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
        row = _squared_length(image, (features, *space), scale)
        shape[numbers.out_spec[0]] = image.shape[batch]
        lengths.append(lax.reshape(row, tuple(shape)))
    if moves[0]:
        column = _squared_length(kernel, tuple(numbers.rhs_spec[1:]))
        shape = [1] * output.ndim
        shape[numbers.out_spec[1]] = kernel.shape[numbers.rhs_spec[0]]
        lengths.append(lax.reshape(column, tuple(shape)))
    return _damped(output, lengths, product.weight, tuple(range(output.ndim)))


def _damped(output: Array, lengths: Sequence[Array], weight: Any, order: tuple[int, ...]) -> Array:
    return damp(output, lengths, jnp.asarray(weight, lengths[0].dtype), order) if lengths else output


def _squared_length(x: Array, axes: tuple[int, ...], scale: float = 1.0) -> Array:
    """The squared length along axes, in at least float32.

    At most the inverse of its precision, beyond which the damping does not change: infinite lengths are
    those of very large ones, not NaN.
    """
    x = lax.stop_gradient(x)
    wide = jnp.promote_types(x.real.dtype, jnp.float32)
    x = jnp.abs(x) if jnp.iscomplexobj(x) else x
    length = jnp.sum(lax.square(x.astype(wide)), axes)
    if scale != 1.0:
        length = length * jnp.asarray(scale, wide)
    return lax.min(length, lax.full_like(length, 1 / float(jnp.finfo(wide).eps)))


DAMPED = {lax.dot_general_p: damped_dot, lax.conv_general_dilated_p: damped_convolution}
"""The primitives whose own derivative is damped."""
