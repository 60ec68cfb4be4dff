"""Pullbacks of step functions, and what comparisons of numbers pass on.

The projection of a step function moves an input to an edge or not at all, so a small change alone would
reach none. What trains is the change, weaker the farther the nearest edge is: c / (1 + d^2), with the
distance d in units of half a step.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from .. import primitives as pp
from ..rules.steps import AbstractStep, Quantize, Round, Sign
from .registry import Pullback, Step, register_pullback, sum_to


def _stepped(constraint: Callable[[dict[str, Any]], AbstractStep]) -> Pullback:
    def pullback(step: Step, cotangents: tuple[Array, ...]) -> tuple[Array]:
        distance = constraint(step.params).steps_from_edge(step.operands[0])
        return (cotangents[0] / (1 + lax.square(distance)),)

    return pullback


register_pullback(lax.sign_p, _stepped(lambda params: Sign()))
register_pullback(lax.floor_p, _stepped(lambda params: Round("floor")))
register_pullback(lax.ceil_p, _stepped(lambda params: Round("ceil")))
register_pullback(lax.round_p, _stepped(lambda params: Round("round")))
register_pullback(pp.quantize_p.primitive, _stepped(lambda params: Quantize(**params)))


def _ties(step: Step, cotangents: tuple[Array, ...], sign: int) -> tuple[Array | None, ...]:
    """The pullback of max (`sign` 1) and min (-1): at a tie, to come nearer takes all, to leave takes one.

    The first operand that moves leaves. Where one cannot move, a maximum with it can only rise.
    """
    (cotangent,) = cotangents
    a, b = step.operands
    leaves = sign * cotangent < 0
    alone = step.moves[0] != step.moves[1]

    def share(x: Array, y: Array, position: int) -> Array | None:
        if not step.moves[position]:
            return None
        leads = alone or position == 0
        at_tie = leaves if alone else (~leaves | leads)
        taken = (sign * x > sign * y) | ((x == y) & at_tie)
        return sum_to(jnp.where(taken, cotangent, jnp.zeros_like(cotangent)), x.shape)

    return share(a, b, 0), share(b, a, 1)


register_pullback(lax.max_p, lambda step, cotangents: _ties(step, cotangents, 1))
register_pullback(lax.min_p, lambda step, cotangents: _ties(step, cotangents, -1))


def _sum_relu(step: Step, cotangents: tuple[Array, ...]) -> tuple[Array, ...]:
    """At the kink the inputs move up, if the output is asked to rise."""
    (cotangent,) = cotangents
    total = sum(step.operands[1:], step.operands[0])
    active = (total > 0) | ((total == 0) & (cotangent < 0))
    moved = jnp.where(active, cotangent, jnp.zeros_like(cotangent))
    return tuple(sum_to(moved, operand.shape) for operand in step.operands)


register_pullback(pp.sum_relu_p.primitive, _sum_relu)


def _threshold(step: Step, cotangents: tuple[Array, ...]) -> tuple[Array, ...]:
    """Goes back through the dot product, with the change divided by 1 + (w . x / margin)^2.

    A flip has to go as far as w . x. The margin is that of weights and inputs of their lengths,
    |w| |x| / sqrt(n sigma), and the unit of w . x: neurons do not fall asleep as their weights grow.
    """
    w, x = step.operands
    product, transposed = jax.vjp(lambda w, x: jnp.einsum("...mn,...n->...m", w, x), w, x)
    lengths = jnp.sum(jnp.square(w), -1) * jnp.mean(jnp.square(x), -1)[..., None] / step.params["sigma"]
    some = lengths > 0
    margin = jnp.sqrt(jnp.where(some, lengths, 1))
    multiplier = jnp.where(some, cotangents[0] / (margin * (1 + jnp.square(product / margin))), 0)
    moved: tuple[Array, ...] = transposed(multiplier.astype(product.dtype))
    return moved


register_pullback(pp.threshold_dot_p.primitive, _threshold)


def _top_k(step: Step, cotangents: tuple[Array, ...]) -> tuple[Array | None]:
    """What would cross the threshold moves, weaker the farther it is; together the scores move by nothing.

    The threshold is half-way between the smallest entry that is chosen and the largest that is not, and p
    = 1/(1 + d^2) with the distance d in halves. More of all scores would choose nothing else, so the mean of
    the cotangents with the weights p is taken off.
    """
    (x,), (cotangent,) = step.operands, cotangents
    k = step.params.get("k", 1)
    if k == x.shape[-1]:
        return (None,)
    largest, _ = lax.top_k(x, k + 1)
    threshold = (largest[..., k - 1 :].sum(-1, keepdims=True)) / 2
    p = 1 / (1 + lax.square(2 * (x - threshold)))
    mean = jnp.sum(p * cotangent, -1, keepdims=True) / jnp.sum(p, -1, keepdims=True)
    return (p * (cotangent - mean),)


register_pullback(pp.one_hot_argmax_p.primitive, _top_k)
register_pullback(pp.top_k_mask_p.primitive, _top_k)


@jax.custom_vjp
def heaviside(difference: Array, value: Array) -> Array:
    """1 where the comparison `value` holds, else 0; it would change where `difference` is 0."""
    return value.astype(difference.dtype)


def _heaviside_back(saved: Array, cotangent: Array) -> tuple[Array, None]:
    return cotangent / (1 + lax.square(2 * saved)), None


heaviside.defvjp(lambda difference, value: (heaviside(difference, value), difference), _heaviside_back)


@jax.custom_vjp
def choose(soft: Array, condition: Array, when_false: Array, when_true: Array) -> Array:
    """A choice between two constants, whose displacement reaches the condition.

    `soft` is the condition as a number, which has the pullback.
    """
    del soft
    return lax.select_n(condition, when_false, when_true)


def _choose_forward(
    soft: Array, condition: Array, when_false: Array, when_true: Array
) -> tuple[Array, tuple[Array, Array]]:
    rise = when_true - when_false
    return choose(soft, condition, when_false, when_true), (soft, jnp.where(jnp.isfinite(rise), rise, 0))


def _choose_back(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, None, None, None]:
    soft, rise = saved
    moved = cotangent * rise
    if moved.shape != soft.shape:  # a condition of one number
        moved = jnp.sum(moved)
    return moved.astype(soft.dtype), None, None, None


choose.defvjp(_choose_forward, _choose_back)
