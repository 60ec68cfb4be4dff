"""The Huber loss."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array

from ... import primitives as pp
from ...primitives.huber import displace_huber
from ..constraint import Arrays, Number
from .base import Loss, register


@dataclass(frozen=True)
class Huber(Loss):
    """Half the squared difference to a target, which grows no faster than by delta far from it."""

    name = "huber"
    operation = pp.huber_p

    def proximal(self, x: Array, targets: Arrays, step: Array) -> Array:
        return pp.prox_huber_p.bind(x, *targets, step)[0]

    def pull(self, operands: Arrays, constants: Arrays, lam: Number) -> Array:
        (x,), (target, delta, _) = operands, constants
        return displace_huber(x, target, delta, jnp.full_like(x, lam))


register(Huber)
