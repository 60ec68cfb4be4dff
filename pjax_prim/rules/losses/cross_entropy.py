"""The cross-entropy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from ... import primitives as pp
from ...primitives._losses import check_weights
from ...primitives.cross_entropy import displace_slightly
from ..constraint import Arrays, Number
from .base import Loss, by_size, last_axis, register, some_of


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """The cross-entropy of the softmax along the last axis with labels, one-hot or weights."""

    name = "cross_entropy"
    operation = pp.cross_entropy_p
    is_checked = True

    def proximal(self, x: Array, targets: Arrays, step: Array) -> Array:
        return pp.prox_cross_entropy_p.bind(x, *targets, step)[0]

    def pull(self, operands: Arrays, constants: Arrays, lam: Number) -> Array:
        (x,), (labels, step) = operands, constants
        return by_size(
            lam,
            x.dtype,
            lambda: displace_slightly(x, labels, lam),
            lambda: pp.displace_cross_entropy_p.bind(x, labels, jnp.full_like(step, lam))[0],
        )

    def check(self, constants: Sequence[Any]) -> None:
        labels, step = constants
        classes = labels.shape[-1]
        name = f"labels (as one-hot vectors; an integer outside 0 to {classes - 1} has no 1)"
        check_weights(labels, classes, name, some_of(step))

    def spanned(self, shapes: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
        return last_axis(shapes)


register(CrossEntropy)
