"""The binary cross-entropy of logits, and its proximal operator."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from . import _arguments as arguments
from . import _losses as losses
from ._definition import define
from .cross_entropy import displace_along


def displace_binary(x: Array, labels: Array, step: Array) -> Array:
    """By how much the proximal operator moves the logits, to full relative precision.

    A logit is the difference of the two logits of a softmax. With half the step the proximal operator of the
    cross-entropy moves these two by half of what the difference has to move, one up and the other down.
    """
    dtype = x.dtype
    x, labels, step = jnp.broadcast_arrays(*arguments.widen(x, labels, step))
    pair, both = jnp.stack([x, jnp.zeros_like(x)]), jnp.stack([labels, 1 - labels])
    return (2 * displace_along(0, pair, both, step[None] / 2, 2)[0]).astype(dtype)


def _prox_reference(x: Array, labels: Array, step: Array) -> tuple[Array]:
    return (losses.moved_by(x, (x + displace_binary(x, labels, step)).astype(x.dtype), step),)


prox_binary_cross_entropy_p = define("pjax_prox_binary_cross_entropy", _prox_reference)


def _reference(x: Array, labels: Array, step: Array) -> tuple[Array]:
    dtype = x.dtype
    x, labels = arguments.widen(x, labels)
    value = -labels * jax.nn.log_sigmoid(x) - (1 - labels) * jax.nn.log_sigmoid(-x)
    return (losses.with_steps(value.astype(dtype), step),)


binary_cross_entropy_p = define("pjax_binary_cross_entropy", _reference, differentiable=True, steps=True)


def binary_cross_entropy(
    logits: Float[Array, "..."], labels: Real[Array, "..."], lam: float | Float[Array, "..."] = 1.0
) -> Float[Array, "..."]:
    r"""The cross-entropy of the logistic function of logits with labels, elementwise:

    $$-y \log \sigma(x) - (1 - y) \log (1 - \sigma(x)).$$

    Its proximal operator, $\arg\min_{x'} (x' - x)^2 / (2 \lambda)$ plus the loss at x', is exact to rounding
    for every step: four Newton steps, of which none passes the root.

    **Arguments:**

    - `logits`: x, any array.
    - `labels`: y, from 0 to 1, an array that broadcasts to `logits`.
    - `lam`: the step of the proximal operator that a constraint graph uses; it does not enter the value. It
      is a number above zero, or an array of numbers of at least zero that broadcasts to `logits`.

    **Returns:** one value per element, in the dtype of `logits`.

    **Errors:** `ArgumentError` for shapes, dtypes or settings other than these, and for labels outside
    [0, 1]; the values of traced labels are not checked.
    """
    (logits,) = arguments.floating(logits=logits)
    losses.check_probabilities(labels)
    (labels,) = losses.elementwise(logits, labels=labels)
    (loss,) = binary_cross_entropy_p.bind(logits, labels, losses.steps_of(lam, logits.dtype, logits.shape))
    return loss
