"""The absolute error."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array

from ... import primitives as pp
from ..constraint import Arrays, Number
from .base import Loss, register


@dataclass(frozen=True)
class AbsoluteError(Loss):
    """The absolute difference to a target."""

    name = "absolute_error"
    operation = pp.absolute_error_p

    def proximal(self, x: Array, targets: Arrays, step: Array) -> Array:
        return pp.prox_absolute_error_p.bind(x, *targets, step)[0]

    def pull(self, operands: Arrays, constants: Arrays, lam: Number) -> Array:
        (x,), (target, _) = operands, constants
        return jnp.clip(target - x, -lam, lam)


register(AbsoluteError)
