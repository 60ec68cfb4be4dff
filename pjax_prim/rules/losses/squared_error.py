"""Half the squared distance to a target."""

from dataclasses import dataclass

from jaxtyping import Array

from ... import primitives as pp
from ..constraint import Arrays, Number
from .base import Loss, of_elements, register


@dataclass(frozen=True)
class SquaredError(Loss):
    """Half the squared distance to a target, summed over the last axis."""

    name = "squared_error"
    operation = pp.squared_error_p

    def proximal(self, x: Array, targets: Arrays, step: Array) -> Array:
        return pp.prox_squared_error_p.bind(x, *targets, of_elements(step, x))[0]

    def pull(self, operands: Arrays, constants: Arrays, lam: Number) -> Array:
        (x,), (target, _) = operands, constants
        return (target - x) * (lam / (1 + lam))


register(SquaredError)
