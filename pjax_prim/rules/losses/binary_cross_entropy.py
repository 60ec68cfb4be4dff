"""The binary cross-entropy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from ... import primitives as pp
from ...primitives._losses import check_probabilities
from ...primitives.binary_cross_entropy import displace_binary
from ..constraint import Arrays, Number
from .base import Loss, register, some_of


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """The cross-entropy of the logistic function of each logit with a label from 0 to 1."""

    name = "binary_cross_entropy"
    operation = pp.binary_cross_entropy_p
    is_checked = True

    def proximal(self, x: Array, targets: Arrays, step: Array) -> Array:
        return pp.prox_binary_cross_entropy_p.bind(x, *targets, step)[0]

    def pull(self, operands: Arrays, constants: Arrays, lam: Number) -> Array:
        (x,), (labels, _) = operands, constants
        return displace_binary(x, labels, jnp.full_like(x, lam))

    def check(self, constants: Sequence[Any]) -> None:
        labels, step = constants
        check_probabilities(labels, some=some_of(step))


register(BinaryCrossEntropy)
