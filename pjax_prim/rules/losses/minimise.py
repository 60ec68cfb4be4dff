"""Numbers that are to be small."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array

from ... import primitives as pp
from ..constraint import Arrays, Number
from .base import Loss, register


@dataclass(frozen=True)
class Minimise(Loss):
    """The number itself, which a proximal operator lowers by its step."""

    name = "minimise"
    operation = pp.minimise_p
    has_opposite = True

    def proximal(self, x: Array, targets: Arrays, step: Array) -> Array:
        return pp.prox_minimise_p.bind(x, step)[0]

    def pull(self, operands: Arrays, constants: Arrays, lam: Number) -> Array:
        return jnp.full_like(operands[0], -lam)


register(Minimise)
