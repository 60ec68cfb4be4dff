"""Hard labels: outputs equal their targets."""

from dataclasses import dataclass

from jaxtyping import Array

from ... import primitives as pp
from ..constraint import Arrays
from .base import Condition, register


@dataclass(frozen=True)
class Equality(Condition):
    """The condition that outputs equal their targets."""

    name = "equality"
    operation = pp.equality_p

    def nearest(self, x: Array, targets: Arrays) -> Array:
        return pp.project_equality_p.bind(x, *targets)[0]


register(Equality)
