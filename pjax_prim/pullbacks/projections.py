"""Finite displacements: the pullback of an operation is the projection onto its constraint."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..explicit_axes import in_automatic_axes
from ..rules import ConstraintRule, RuleContext, meaning_of
from ..rules.constraint import AbstractConstraint
from .registry import Pullback, Step, sum_to


class Finite(NamedTuple):
    """How large the steps of finite displacements are.

    - `lam`: of the losses' proximal operators.
    - `scale`: by how much a cotangent is multiplied to be minus a displacement.
    """

    lam: Any
    scale: Any


def constraint_of(equation: Any, moves: Sequence[bool]) -> ConstraintRule | None:
    """The constraint that a rule makes of an equation; None for a movement, or without a rule.

    Steps have none, either: their Jacobian is zero, and a signal goes through them as to first order.

    **Arguments:** `moves`, for each input whether it depends on a parameter.
    """
    if len(equation.outvars) != 1:
        return None
    context = RuleContext(
        equation.primitive,
        dict(equation.params),
        tuple(atom.aval for atom in equation.invars),
        tuple(variable.aval for variable in equation.outvars),
        tuple(not x for x in moves),
        tuple(_number(atom) for atom in equation.invars),
    )
    meaning = meaning_of(context)
    if not isinstance(meaning, ConstraintRule) or meaning.constraint.is_step:
        return None
    return meaning


def _number(atom: Any) -> float | None:
    value = getattr(atom, "val", None)
    return None if value is None or np.shape(value) else float(value)


_HELD = 1e9
"""The weight in the distance of what depends on no parameter: it all but stays where it is."""


def _holding(constraint: AbstractConstraint, wanted: Sequence[bool]) -> AbstractConstraint:
    """The constraint with operands that do not move; as it is where its projection knows no weights."""
    if all(wanted):
        return constraint
    return constraint.weighted(tuple(1.0 if want else _HELD for want in wanted)) or constraint


def projecting(rule: ConstraintRule, settings: Finite) -> Pullback:
    """The pullback that projects onto the constraint of a rule.

    The projection of a point moves it by J^T t, with the Jacobian J where it ends and a multiplier t that is
    smaller than the change of the output that is asked for. The pullback is J^T of the whole change, so that
    signals do not fade from operation to operation. Where an operand has several copies, J is that of their
    mean.
    """
    constraint, scale = rule.constraint, settings.scale

    def pullback(step: Step, cotangents: tuple[Array, ...]) -> list[Array | None]:
        moved = [i for i in sorted(rule.operands) if step.moves[i]]

        def run(operands: Any, outputs: Any, cotangents: Any) -> list[Array | None]:
            return project(Step(operands, outputs, step.params, step.moves, step.weight), *cotangents)

        like = [step.operands[i] for i in moved]
        found: list[Array | None] = in_automatic_axes(run, step.operands, step.outputs, cotangents, like=like)
        return found

    def project(step: Step, cotangent: Array) -> list[Array | None]:
        found: list[Array | None] = [None] * len(step.operands)
        output = step.outputs[0]
        operands, constants = (
            tuple(
                jnp.broadcast_to(step.operands[i], output.shape) if rule.broadcast else step.operands[i]
                for i in positions
            )
            for positions in (rule.operands, rule.constants)
        )
        if constraint.is_loss:
            pulled = constraint.pull(operands, constants, settings.lam)  # type: ignore[attr-defined]
            each = cotangent.reshape(*cotangent.shape, *[1] * (pulled.ndim - cotangent.ndim))
            found[rule.operands[0]] = pulled * each / -settings.lam
            return found
        wanted = [step.moves[i] for i in rule.operands]
        target = output - scale * cotangent
        projected = _holding(constraint, wanted).project_average(operands, target, constants, wanted)
        point = [
            x if move is None else x + move for x, move in zip(operands, projected.displacements, strict=True)
        ]
        _, transposed = jax.vjp(lambda *operands: constraint.forward(operands, constants), *point)
        for position, want, moved in zip(rule.operands, wanted, transposed(cotangent), strict=True):
            if want:
                found[position] = sum_to(moved, step.operands[position].shape)
        return found

    return pullback
