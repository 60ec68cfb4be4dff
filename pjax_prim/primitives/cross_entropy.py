"""The cross-entropy loss, and its proximal operator."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from . import _arguments as arguments
from . import _losses as losses
from ._definition import define
from ._omega import refined


def _newton_steps(classes: int) -> int:
    """How many Newton steps `prox_reference` takes: as many as any query was found to need.

    A Newton step on a convex function divides residual and slope by factors whose inverses sum
    to at most 1, and the slope is between n and 1: it cannot halve more than log2 n times, and
    else the residual falls faster.
    """
    return 3 + math.ceil(math.log2(classes))


def displace_reference(logits: Array, labels: Array, step: Array) -> tuple[Array]:
    dtype = logits.dtype
    logits, labels, step = arguments.widen(logits, labels, step)
    logits, labels = jnp.broadcast_arrays(logits, labels)
    n = logits.shape[-1]
    if n >= _MANY:
        return (displace_along(-1, logits, labels, step[..., None], n).astype(dtype),)
    logits, labels = (jnp.moveaxis(x, -1, 0) for x in (logits, labels))
    return (jnp.moveaxis(displace_along(0, logits, labels, step[None], n), 0, -1).astype(dtype),)


_MANY = 32
"""Sums over fewer classes run along the examples."""


def displace_along(axis: int, logits: Array, labels: Array, lam: Array, n: int) -> Array:
    r"""The displacement of logits with `n` classes along an axis; others are far below, without labels.

    `lam` has one step for each example, at least zero, and length 1 along that axis.

    With Y the sum of the labels and p the softmax of the solution, $x = l + \lambda (y - Y p)$.
    Let m be the largest entry of $l + \lambda y$, hence of x. Differences to it give, for j != m,
    with $v = \lambda Y p$,

    $$\log v_j + v_j = (l_j - l_m) + \lambda (y_j - y_m) + \lambda Y p_m + \log (\lambda Y p_m),$$

    which determines $v_j$ from $p_m$ (the Wright omega function); the scalar equation is that all $p_j$ sum
    to 1. Every $v_j$ is an increasing convex function of $p_m$, so in $R = 1 - p_m$ Newton's method
    started at or below the root climbs to it and cannot pass it. R, rather than $p_m$, keeps
    the digits where nearly all of the probability is on the label.

    The loop carries v, which stores it: fused with the sums that read it, it would be computed for each.
    """

    def total(x: Array) -> Array:
        return jnp.sum(x, axis, keepdims=True)

    places = jax.lax.broadcasted_iota(jnp.int32, logits.shape, axis % logits.ndim)
    largest = places == jnp.argmax(logits + lam * labels, axis, keepdims=True)
    label = total(jnp.where(largest, labels, 0))
    labelled = total(jnp.where(largest, 0, labels))  # Y - y_m, without cancellation
    t = lam * (label + labelled)
    tiny = float(jnp.finfo(t.dtype).tiny)
    # What has a logarithm is computed for each class: where there are few examples, a loop over these alone
    # takes XLA's CPU backend long to compile.
    log_t = jnp.log(jnp.maximum(jnp.broadcast_to(t, logits.shape), tiny))
    gap = logits - total(jnp.where(largest, logits, 0))
    # Not the least number there is, so that what is made of it stays above zero.
    least = math.log(tiny) + 3
    constant = jnp.where(largest, least, gap + lam * (labels + labelled) + log_t)

    def log_rest(r: Array) -> Array:
        return jnp.log1p(-jnp.broadcast_to(r, logits.shape))

    def newton(_: int, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        r = carry[0]
        v = _omega(jnp.maximum(constant - t * r + log_rest(r), least))
        slope = t + total(v / (1 + v)) * (t + 1 / (1 - r))
        step = (total(v) - t * r) / jnp.maximum(slope, tiny)
        return jnp.clip(r + step, r, 1 - 1 / n), v, r

    odds = total(jnp.where(largest, 0, jnp.exp(jnp.minimum(gap + lam * (labels - label), 0))))
    r = odds / (1 + odds)
    _, v, r = jax.lax.fori_loop(0, 1 + _newton_steps(n), newton, (r, constant, r))
    # lambda y - v for v of the size of 1; else, where that would cancel, from
    # x_j - x_m = log (p_j / p_m) and the sum of the displacement, which is zero.
    logs = v > 1
    lead = gap - (jnp.log(v) - log_t - log_rest(r))  # of the displacement of m over that of j
    step = lam * labels - v
    balance = total(jnp.where(logs, lead, jnp.where(largest, 0, -step)))
    step_m = balance / (1 + total(jnp.where(logs, 1.0, 0.0)))
    step = jnp.where(largest, step_m, jnp.where(logs, step_m - lead, step))
    return jnp.where(t == 0, 0, step)


def _omega(z: Array) -> Array:
    """The root v of v + log v = z (the Wright omega function), to the last digits.

    The first value is within 2%. `z` must not be so far below zero that v underflows.
    """
    s = jnp.where(z > 40, z, jnp.log1p(jnp.exp(jnp.minimum(z, 40))))
    v = s * (1 - jnp.log(1 + s) / (2 + s))
    for _ in range(1 if z.dtype == jnp.float32 else 2):
        v = refined(v, z - v - jnp.log(v))
    return v


class _Shares(NamedTuple):
    """The softmax of logits along the last axis, with the digits of 1 - p of the likeliest class.

    - `likeliest`: which class that is, the first of several.
    - `gap`: the logits less its own.
    - `rest`: minus its log p, the log of 1 plus the odds of the others, (..., 1).
    """

    likeliest: Array
    gap: Array
    rest: Array

    @classmethod
    def of(cls, logits: Array) -> "_Shares":
        # By its position: a comparison with the maximum fails where a compiler rounds the two differently.
        position = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
        likeliest = position == jnp.argmax(logits, -1, keepdims=True)
        gap = logits - jnp.sum(jnp.where(likeliest, logits, 0), -1, keepdims=True)
        odds = jnp.where(likeliest, 0, jnp.exp(gap))
        return cls(likeliest, gap, jnp.log1p(jnp.sum(odds, -1, keepdims=True)))


def displace_slightly(logits: Array, labels: Array, lam: float | Array) -> Array:
    r"""The same to first order in lambda, $\lambda (y - Y p)$ with the softmax p of the logits."""
    x, y = jnp.broadcast_arrays(*arguments.widen(logits, labels))
    shares, total = _Shares.of(x), jnp.sum(y, -1, keepdims=True)
    at_likeliest = -total * jnp.expm1(-shares.rest) - (total - y)
    # No factor is a quotient of sums, which would be a program of its own.
    elsewhere = y - total * jnp.exp(shares.gap - shares.rest)
    return (lam * jnp.where(shares.likeliest, at_likeliest, elsewhere)).astype(logits.dtype)


def _differentiable(logits: Array, labels: Array, step: Array) -> tuple[Array]:
    """The same, with the derivative of the solution: one Newton step from it, of a slope that is held.

    The slope of x - l - step (y - Y p) is the identity plus t (diag p - p p^T), t = step Y, whose inverse
    is known.
    """
    dtype = logits.dtype
    (found,) = displace_reference(logits, labels, step)
    logits, labels, found, step = arguments.widen(logits, labels, found, step)
    step, total = step[..., None], jnp.sum(labels, -1, keepdims=True)
    x = jax.lax.stop_gradient(logits + found)
    p = jax.nn.softmax(x, -1)
    t = jax.lax.stop_gradient(step * total)
    missing = (logits + step * (labels - total * p) - x) / (1 + t * p)
    share = jnp.sum(p * missing, -1, keepdims=True) / jnp.sum(p / (1 + t * p), -1, keepdims=True)
    moved = missing + t * p / (1 + t * p) * share
    return ((x + moved - logits).astype(dtype),)


displace_cross_entropy_p = define(
    "pjax_displace_cross_entropy", displace_reference, derivative=_differentiable, version=2
)
"""(logits, labels, step) -> by how much the proximal operator moves the logits, to full precision."""


def prox_reference(logits: Array, labels: Array, step: Array) -> tuple[Array]:
    return (moved_logits(logits, displace_reference(logits, labels, step)[0], step),)


def _differentiable_prox(logits: Array, labels: Array, step: Array) -> tuple[Array]:
    return (moved_logits(logits, _differentiable(logits, labels, step)[0], step),)


def moved_logits(logits: Array, displacement: Array, step: Array) -> Array:
    """The proximal point, from by how much the logits move."""
    return losses.moved_by(logits, (logits + displacement).astype(logits.dtype), step[..., None])


prox_cross_entropy_p = define(
    "pjax_prox_cross_entropy", prox_reference, derivative=_differentiable_prox, version=2
)


def prox_cross_entropy(
    logits: Float[Array, " C"],
    labels: Float[Array, " C"] | Int[Array, ""],
    lam: float | Float[Array, ""] = 5.0,
) -> Float[Array, " C"]:
    r"""The proximal operator of the cross-entropy with softmax:

    $$\arg\min_x \frac{|x - l|^2}{2 \lambda} - \sum_i y_i \log \mathrm{softmax}(x)_i.$$

    **Arguments:**

    - `logits`: l, a vector.
    - `labels`: y, a vector of weights of that length, not below zero (one-hot, smoothed, or all
      zero for no label), or an integer class.
    - `lam`: the step $\lambda$, a number above zero, or an array of one number of at least zero.

    It takes one query; use `jax.vmap` for a batch.

    **Returns:** a vector like `logits`, exact to rounding for every step. It is unique.

    **Errors:** `ArgumentError` for shapes, dtypes or settings other than these, or a class out
    of range.

    **Cost:** 3 + log2 C Newton steps in one scalar, each a pass over the logits.
    """
    (logits,) = arguments.floating(logits=logits)
    arguments.rank(1, logits=logits)
    arguments.not_empty(logits=logits)
    labels = losses.labels_for(logits, labels)
    (moved,) = prox_cross_entropy_p.bind(logits, labels, losses.steps_of(lam, logits.dtype, ()))
    return moved


@jax.custom_jvp
def _value(logits: Array, labels: Array) -> Array:
    shares = _Shares.of(logits)
    return jnp.sum(jnp.where(labels == 0, 0, labels * (shares.rest - shares.gap)), -1)


@_value.defjvp
def _change_of_value(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    """Minus the displacement to first order is the gradient."""
    (logits, labels), (logits_moved, labels_moved) = primals, tangents
    shares = _Shares.of(logits)
    # A class without a label may be infinitely far below the others.
    by_labels = jnp.where(labels == 0, 0, (shares.rest - shares.gap) * labels_moved)
    moved = by_labels - displace_slightly(logits, labels, 1.0) * logits_moved
    return _value(logits, labels), jnp.sum(moved, -1)


def _reference(logits: Array, labels: Array, step: Array) -> tuple[Array]:
    value = _value(*jnp.broadcast_arrays(*arguments.widen(logits, labels)))
    return (losses.with_steps(value.astype(logits.dtype), step),)


cross_entropy_p = define("pjax_cross_entropy", _reference, differentiable=True, steps=True, version=2)


def cross_entropy(
    logits: Float[Array, "... C"],
    labels: Float[Array, "... C"] | Int[Array, "..."],
    lam: float | Float[Array, "..."] = 5.0,
    *,
    axis: int = -1,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """The cross-entropy of the softmax of logits with labels.

    **Arguments:**

    - `logits`: (..., C).
    - `labels`: (...) integer classes, or (..., C) weights of the classes, not below zero: one-hot,
      smoothed, or any other probabilities.
    - `lam`: the step of the proximal operator that a constraint graph uses; it does not enter
      the value. It is a number above zero, or an array of numbers of at least zero that broadcasts to (...).
    - `axis`: the axis of the classes, in the logits and in labels of their shape.
    - `where`: which examples count, Booleans that broadcast to (...); the loss of others is zero.

    **Returns:** one value per example, (...).

    **Errors:** `ArgumentError` for shapes, dtypes or settings other than these, for classes out
    of range and for weights that are below zero, not finite or all zero; the values of traced labels
    are not checked.
    """
    (logits,) = arguments.floating(logits=logits)
    given = losses.examples(
        logits, labels, lam, names=("logits", "labels"), axis=axis, where=where, check=losses.check_weights
    )
    (loss,) = cross_entropy_p.bind(given.x, given.target, given.step)
    return given.of(loss)
