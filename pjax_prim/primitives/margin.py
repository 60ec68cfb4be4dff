"""The margin loss, and the projection onto the logits that satisfy the margins."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from . import _arguments as arguments
from . import _losses as losses
from ._definition import define


def _clip(logits: Array, labels: Array) -> Array:
    return jnp.where(labels > 0, jnp.maximum(logits, labels), jnp.minimum(logits, 0))


def _project_reference(logits: Array, labels: Array) -> tuple[Array]:
    dtype = logits.dtype
    return (_clip(*arguments.widen(logits, labels)).astype(dtype),)


project_margin_p = define("pjax_project_margin", _project_reference)


def project_margin(
    logits: Float[Array, " C"], labels: Float[Array, " C"] | Int[Array, ""]
) -> Float[Array, " C"]:
    r"""The nearest logits that satisfy the margins:

    $$\arg\min_x |x - l|^2 \quad\text{with } x_i \le 0 \text{ where } y_i \le 0,\
      x_i \ge y_i \text{ where } y_i > 0.$$

    **Arguments:**

    - `logits`: l, a vector.
    - `labels`: y, a vector of margins of that length, or an integer class, margin 1.

    It takes one query; use `jax.vmap` for a batch.

    **Returns:** the clipped logits. They are unique.

    **Errors:** `ArgumentError` for shapes or dtypes other than these, or a class out of range.

    **Cost:** one pass over the arrays.
    """
    (logits,) = arguments.floating(logits=logits)
    arguments.rank(1, logits=logits)
    labels = losses.labels_for(logits, labels)
    (moved,) = project_margin_p.bind(logits, labels)
    return moved


def _reference(logits: Array, labels: Array, step: Array) -> tuple[Array]:
    dtype = logits.dtype
    logits, labels = arguments.widen(logits, labels)
    value = 0.5 * jnp.sum(jnp.square(logits - _clip(logits, labels)), -1)
    return (losses.with_steps(value.astype(dtype), step),)


margin_loss_p = define("pjax_margin_loss", _reference, differentiable=True, steps=True, version=2)


def margin_loss(
    logits: Float[Array, "... C"],
    labels: Float[Array, "... C"] | Int[Array, "..."],
    *,
    axis: int = -1,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """Half the squared distance of the logits to the margin set of `project_margin`.

    **Arguments:**

    - `logits`: (..., C).
    - `labels`: (..., C) one-hot, or (...) integer classes.
    - `axis`: the axis of the classes, in the logits and in labels of their shape.
    - `where`: which examples count, Booleans that broadcast to (...); the loss of others is zero.

    **Returns:** one value per example, (...).

    **Errors:** `ArgumentError` for shapes or dtypes other than these, for classes out of range
    and for vectors that are not one-hot; the values of traced labels are not checked.
    """
    (logits,) = arguments.floating(logits=logits)
    given = losses.examples(
        logits, labels, 1.0, names=("logits", "labels"), axis=axis, where=where, check=losses.check_labels
    )
    (loss,) = margin_loss_p.bind(given.x, given.target, given.step)
    return given.of(loss)
