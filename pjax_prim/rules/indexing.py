"""Constraints and movements of scatters with constant indices."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from ..errors import GraphError
from .constraint import AbstractConstraint, Arrays, Projected, Target
from .registry import ConstraintRule, Movement, RuleContext, register_projection


@dataclass(frozen=True)
class ScatterSum(AbstractConstraint):
    """y = x with updates added at constant indices: a sum per element, of as many terms as meet there.

    **Arguments:** `moves`, whether x and the updates are operands (else they are constants);
    `dimensions`, `indices_are_sorted`, `unique_indices`, `mode` as in `jax.lax.scatter_add`.
    """

    moves: tuple[bool, bool]
    dimensions: lax.ScatterDimensionNumbers
    indices_are_sorted: bool
    unique_indices: bool
    mode: Any
    kind: ClassVar[str] = "scatter_sum"

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        return self._scatter(*self._all(operands, constants))

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        _, steps, _ = self._displace(copies, target - self.forward(copies, constants), constants)
        return tuple(x + step for x, step in zip(copies, steps, strict=True))

    def project_average(
        self, operands: Arrays, target: Target, constants: Arrays, wanted: Sequence[bool]
    ) -> Projected:
        total = self.forward(operands, constants)
        changed, steps, squared = self._displace(operands, target - total, constants)
        return Projected(total + changed, steps, squared)

    def _displace(self, operands: Arrays, residual: Array, constants: Arrays) -> tuple[Array, Arrays, Array]:
        """The displacements of the output and of the operands, and the squared norm of these."""
        x, indices, updates = self._all(operands, constants)
        moving = jnp.full_like(residual, float(self.moves[0]))
        terms = jnp.full_like(updates, float(self.moves[1]))
        count = self._scatter(moving, indices, terms)
        step = residual / (count + 1)
        nothing = jnp.zeros_like(residual)
        (met,) = jax.linear_transpose(lambda u: self._scatter(nothing, indices, u), updates)(step)
        steps = tuple(s for s, moves in zip((step, met), self.moves, strict=True) if moves)
        return count * step, steps, jnp.sum(count * jnp.square(step))

    def _scatter(self, x: Array, indices: Array, updates: Array) -> Array:
        return lax.scatter_add(
            x,
            indices,
            updates,
            self.dimensions,
            indices_are_sorted=self.indices_are_sorted,
            unique_indices=self.unique_indices,
            mode=self.mode,
        )

    def _all(self, operands: Arrays, constants: Arrays) -> tuple[Array, Array, Array]:
        """x, indices and updates; the indices are the last constant."""
        variable, fixed = iter(operands), iter(constants)
        x, updates = (next(variable) if moves else next(fixed) for moves in self.moves)
        return x, next(fixed), updates


def _constant_indices(ctx: RuleContext) -> None:
    if not ctx.constant[1]:
        raise GraphError(
            f"primitive {ctx.primitive.name!r}: input 1 depends on a parameter, but it decides where "
            "data goes and so has no projection; index with constants"
        )


def _scatter_add(ctx: RuleContext) -> ConstraintRule:
    _constant_indices(ctx)
    moves = not ctx.constant[0], not ctx.constant[2]
    names = "dimension_numbers", "indices_are_sorted", "unique_indices", "mode"
    constraint = ScatterSum(moves, *(ctx.params[name] for name in names))
    operands = tuple(i for i in (0, 2) if not ctx.constant[i])
    constants = tuple(i for i in (0, 2) if ctx.constant[i])
    return ConstraintRule(constraint, operands, (*constants, 1))


def _scatter(ctx: RuleContext) -> Movement:
    _constant_indices(ctx)
    return Movement("partial")


register_projection(lax.scatter_add_p, _scatter_add)
register_projection(lax.scatter_p, _scatter)
