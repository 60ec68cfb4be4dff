"""Losses that users define by their value and their proximal operator."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ... import primitives as pp
from ..constraint import Arrays, Number
from .base import Loss, by_size


@dataclass(frozen=True)
class OwnLoss(Loss):
    """A loss with a value and a proximal operator of one's own; one subclass for each.

    - `ranks`: how many axes x, the target and the value had where the function was called. More of them, in
      front, are from `jax.vmap` and loops.
    """

    ranks: tuple[int, int, int]
    prox: ClassVar[pp.Definition]

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        return self.operation.bind(*operands, *constants, ranks=self.ranks)[0]

    def proximal(self, x: Array, targets: Arrays, step: Array) -> Array:
        return self.prox.bind(x, *targets, step, ranks=self.ranks)[0]

    def pull(self, operands: Arrays, constants: Arrays, lam: Number) -> Array:
        (x,), (target, step) = operands, constants

        def small() -> Array:
            value, back = jax.vjp(lambda x: self.forward((x,), constants), x)
            return -lam * back(jnp.ones_like(value))[0]

        return by_size(lam, x.dtype, small, lambda: self.proximal(x, (target,), jnp.full_like(step, lam)) - x)

    def spanned(self, shapes: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
        axes = len(shapes[0])
        return (tuple(range(axes - self.ranks[0] + self.ranks[2], axes)),)


def batched(function: Callable[..., Array], ranks: Sequence[int], *arrays: Array) -> Array:
    """A function of arrays of some ranks, for each index of the axes that they have in front of these.

    Along such an axis an array has the common size or 1.
    """
    count = arrays[0].ndim - ranks[0]
    batch = jnp.broadcast_shapes(*(x.shape[:count] for x in arrays))
    for _ in range(count):
        function = jax.vmap(function)
    return function(*(jnp.broadcast_to(x, (*batch, *x.shape[count:])) for x in arrays))
