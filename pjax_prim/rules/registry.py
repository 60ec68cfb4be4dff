"""The rule table, keyed by JAX primitive, and the ways to fill it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from jax.extend.core import Primitive

from ..errors import ArgumentError, GraphError
from .constraint import AbstractConstraint

MovementKind = Literal["bijective", "repeating", "partial"]


@dataclass(frozen=True)
class RuleContext:
    """What a rule may look at.

    - `primitive`, `params`: the primitive and the parameters of the equation.
    - `inputs`, `outputs`: its abstract values (shape, dtype).
    - `constant`: for each input, whether it depends on no parameter.
    - `literals`: for each input the number written in the function, or None.
    """

    primitive: Primitive
    params: dict[str, Any]
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    constant: tuple[bool, ...]
    literals: tuple[float | None, ...]


@dataclass(frozen=True)
class Movement:
    """The equation only moves data: each output element is an element of an input or a constant.

    `kind` says how often an input element appears in the output: "bijective" once,
    "repeating" equally often (a broadcast), "partial" any number of times, or never.
    """

    kind: MovementKind


@dataclass(frozen=True)
class ConstraintRule:
    """The equation is a constraint.

    - `constraint`: its kind with static parameters.
    - `operands`: positions of the inputs that have copies.
    - `constants`: positions of the inputs that enter exactly.
    - `broadcast`: whether operands and constants are first broadcast to the output's shape.
    """

    constraint: AbstractConstraint
    operands: tuple[int, ...]
    constants: tuple[int, ...] = ()
    broadcast: bool = False


Rule = Callable[[RuleContext], Movement | ConstraintRule]
_RULES: dict[Primitive, Rule] = {}
_LOSSES: set[Primitive] = set()


def register_projection(primitive: Primitive, rule: Rule, *, loss: bool = False) -> None:
    """Gives a JAX primitive its meaning in constraint graphs.

    **Arguments:**

    - `primitive`: any `jax.extend.core.Primitive`, also one defined outside this library.
    - `rule`: a function of a `RuleContext` that returns a `ConstraintRule` or a `Movement`.
      It is called once per equation while the graph is built, before any compilation.
    - `loss`: whether the constraint is an output condition, where the graph ends.

    **Errors:** `ArgumentError` if the arguments are not of these kinds or the primitive has
    a rule already.
    """
    if not isinstance(primitive, Primitive):
        raise ArgumentError(
            f"primitive: expected a jax.extend.core.Primitive, given {type(primitive).__name__}"
        )
    if not callable(rule):
        raise ArgumentError(f"rule: expected a function of a RuleContext, given {rule!r}")
    if primitive in _RULES:
        raise ArgumentError(f"primitive: {primitive.name!r} already has a rule")
    _RULES[primitive] = rule
    if loss:
        _LOSSES.add(primitive)


def rule_of(primitive: Primitive) -> Rule | None:
    """The rule of a primitive, or None."""
    return _RULES.get(primitive)


def meaning_of(context: RuleContext) -> Movement | ConstraintRule | None:
    """What the rule of an equation says; None without a rule, and where it does not apply."""
    rule = rule_of(context.primitive)
    if rule is None:
        return None
    try:
        return rule(context)
    except (GraphError, NotImplementedError):
        return None


def is_loss(primitive: Primitive) -> bool:
    """Whether graphs end at this primitive."""
    return primitive in _LOSSES
