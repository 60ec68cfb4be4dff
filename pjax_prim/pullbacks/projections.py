"""Finite displacements: the pullback of an operation is the projection onto its constraint."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..errors import GraphError
from ..explicit_axes import in_automatic_axes
from ..rules import ConstraintRule, Movement, RuleContext, rule_of
from ..rules.constraint import Asked
from .registry import Pullback, Step, sum_to

HELD = 1e9
"""The weight of an operand of a product that depends on no parameter: it all but stays where it is."""


class Finite(NamedTuple):
    """How large the steps of finite displacements are.

    - `lam`: of the losses' proximal operators.
    - `weight`: of parameters in products, as in `pjp.displacement`.
    - `scale`: by how much a cotangent is multiplied to be minus a displacement.
    """

    lam: float
    weight: float
    scale: float


def constraint_of(equation: Any, moves: Sequence[bool]) -> ConstraintRule | None:
    """The constraint that a rule makes of an equation; None for a movement, or without a rule.

    **Arguments:** `moves`, for each input whether it depends on a parameter.
    """
    meaning = meaning_of(equation, moves)
    return meaning if isinstance(meaning, ConstraintRule) else None


def meaning_of(equation: Any, moves: Sequence[bool]) -> ConstraintRule | Movement | None:
    """What the rule of an equation says; None without a rule, and where it does not apply."""
    rule = rule_of(equation.primitive)
    if rule is None or len(equation.outvars) != 1:
        return None
    context = RuleContext(
        equation.primitive,
        dict(equation.params),
        tuple(atom.aval for atom in equation.invars),
        tuple(variable.aval for variable in equation.outvars),
        tuple(not x for x in moves),
        tuple(_number(atom) for atom in equation.invars),
    )
    try:
        return rule(context)
    except (GraphError, NotImplementedError):
        return None


def _number(atom: Any) -> float | None:
    value = getattr(atom, "val", None)
    return None if value is None or np.shape(value) else float(value)


def projecting(rule: ConstraintRule, settings: Finite, weighs: Sequence[bool]) -> Pullback:
    """The pullback that projects onto the constraint of a rule.

    **Arguments:** `weighs`, for each input of the operation whether it is made of parameters only.
    """
    constraint, scale = rule.constraint, settings.scale

    moved = sorted(rule.operands)

    def pullback(step: Step, cotangents: tuple[Array, ...]) -> list[Array | None]:
        like = [step.operands[i] for i in moved if step.moves[i]]
        params = step.params

        def run(operands: Any, outputs: Any, cotangents: Any) -> list[Array | None]:
            return project(Step(operands, outputs, params, step.moves, step.weight), cotangents)

        return in_automatic_axes(run, step.operands, step.outputs, cotangents, like=like)

    def project(step: Step, cotangents: tuple[Array, ...]) -> list[Array | None]:
        found: list[Array | None] = [None] * len(step.operands)
        output, cotangent = step.outputs[0], cotangents[0]
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
        weights = [settings.weight if weighs[i] else None if step.moves[i] else HELD for i in rule.operands]
        moves, damping = constraint.displace(
            Asked(operands, output, -scale * cotangent, constants, wanted, weights)
        )
        for position, move in zip(rule.operands, moves, strict=True):
            if move is not None and step.moves[position]:
                found[position] = sum_to(move * damping / -scale, step.operands[position].shape)
        return found

    return pullback
