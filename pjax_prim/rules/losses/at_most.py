"""Upper bounds."""

from dataclasses import dataclass

from jaxtyping import Array

from ... import primitives as pp
from ..constraint import Arrays
from .base import Condition, register


@dataclass(frozen=True)
class AtMost(Condition):
    """The condition that outputs are at most as large as their bounds."""

    name = "at_most"
    operation = pp.at_most_p

    def nearest(self, x: Array, targets: Arrays) -> Array:
        return pp.project_at_most_p.bind(x, *targets)[0]


register(AtMost)
