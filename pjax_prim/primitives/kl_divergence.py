"""The Kullback-Leibler divergence of a softmax from given probabilities."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from . import _arguments as arguments
from . import _losses as losses
from ._definition import define


def _reference(logits: Array, probabilities: Array, step: Array) -> tuple[Array]:
    dtype = logits.dtype
    logits, p = arguments.widen(logits, probabilities)
    some = p != 0
    gaps = jnp.log(jnp.where(some, p, 1)) - jax.nn.log_softmax(logits, -1)
    value = jnp.sum(jnp.where(some, p * gaps, 0), -1)
    return (losses.with_steps(value.astype(dtype), step),)


kl_divergence_p = define("pjax_kl_divergence", _reference, differentiable=True, steps=True)


def kl_divergence(
    logits: Float[Array, "... C"],
    probabilities: Float[Array, "... C"],
    lam: float | Float[Array, "..."] = 5.0,
    *,
    axis: int = -1,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """The divergence KL(probabilities || softmax(logits)).

    It is the cross-entropy less the entropy of the probabilities, which no logit changes: the proximal
    operators of the two are the same.

    **Arguments:**

    - `logits`: (..., C).
    - `probabilities`: (..., C), not below zero; or (...) integer classes, which become one-hot.
    - `lam`: the step of the proximal operator that a constraint graph uses; it does not enter
      the value. It is a number above zero, or an array of numbers of at least zero that broadcasts to (...).
    - `axis`: the axis of the classes, in both arrays.
    - `where`: which examples count, Booleans that broadcast to (...); the loss of others is zero.

    **Returns:** one value per example, (...).

    **Errors:** `ArgumentError` for shapes, dtypes or settings other than these, and for probabilities
    that are below zero, not finite or all zero; the values of traced ones are not checked.
    """
    (logits,) = arguments.floating(logits=logits)
    given = losses.examples(
        logits,
        probabilities,
        lam,
        names=("logits", "probabilities"),
        axis=axis,
        where=where,
        check=losses.check_weights,
    )
    (loss,) = kl_divergence_p.bind(given.x, given.target, given.step)
    return given.of(loss)
