"""First pass over a flat function: which equations are constant, move data, or are constraints."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from .. import primitives as pp
from ..errors import GraphError, MissingRuleError
from ..rules import AbstractConstraint, Movement, RuleContext, is_loss, rule_of
from ..rules.remedies import remedy
from .compose import compose
from .endings import Endings, plan_endings, weights_of
from .ir import FORWARD, Equation, Loop, Value, closure, reshaping
from .linearise import TOGETHER, hold_inside, join, linearised
from .trace import FlatFunction
from .written_losses import write_losses


@dataclass(frozen=True, eq=False)
class DraftNode:
    """A constraint before its operands are resolved to producers. `output` of a loss is unused."""

    constraint: AbstractConstraint
    operands: tuple[Value, ...]
    constants: tuple[Value, ...]
    output: Value
    source: str
    loops: tuple[Loop, ...] = ()


@dataclass
class Draft:
    """The equations of a function, sorted by their part in the constraint graph."""

    nodes: list[DraftNode] = field(default_factory=list)
    moved_by: dict[Value, tuple[Equation, Movement]] = field(default_factory=dict)
    constant_equations: list[Equation] = field(default_factory=list)
    variables: set[Value] = field(default_factory=set)
    weights: list[Value] = field(default_factory=list)
    signed: list[Value] = field(default_factory=list)
    is_positive: bool = True

    def move(self, equation: Equation, movement: Movement) -> None:
        """Records a data movement."""
        for value in equation.outputs:
            self.moved_by[value] = (equation, movement)
            self.variables.add(value)

    def broadcast(self, value: Value, shape: tuple[int, ...], source: str) -> Value:
        """`value` in the given shape, by one more equation if it has another."""
        if value.shape == shape:
            return value
        last = tuple(range(len(shape) - len(value.shape), len(shape)))
        return self.derive(
            value,
            lax.broadcast_in_dim_p,
            {"shape": shape, "broadcast_dimensions": last},
            partial(jnp.broadcast_to, shape=shape),
            source,
            Movement("repeating"),
            shape,
        )

    def derive(
        self,
        value: Value,
        primitive: Any,
        params: dict[str, Any],
        function: Callable[..., Any],
        source: str,
        movement: Movement,
        shape: tuple[int, ...],
    ) -> Value:
        """A new value `function(value)`, constant or moved as `value` is."""
        result = Value(shape, value.dtype)
        equation = Equation(primitive, params, (value,), (result,), lambda x: (function(x),), source)
        if value in self.variables:
            self.move(equation, movement)
        else:
            self.constant_equations.append(equation)
        return result

    def take_out(self, flat: Value, start: int, stop: int, value: Value, source: str) -> None:
        """`value` is a part of the last axis of another, in its own shape."""
        lead = len(flat.shape) - 1
        part = Value((*flat.shape[:-1], stop - start), flat.dtype)
        params = {
            "start_indices": (0,) * lead + (start,),
            "limit_indices": (*flat.shape[:-1], stop),
            "strides": None,
        }
        self.move(
            Equation(lax.slice_p, params, (flat,), (part,), lambda x: (x[..., start:stop],), source),
            Movement("partial"),
        )
        self.move(reshaping(part, value, source), Movement("bijective"))

    def count_uses(self) -> Counter[Value]:
        """How many constraints and movements read each value."""
        moves: dict[Equation, None] = {equation: None for equation, _ in self.moved_by.values()}
        readers: list[Equation | DraftNode] = [*moves, *self.nodes]
        return Counter(
            value
            for reader in readers
            for value in (reader.inputs if isinstance(reader, Equation) else reader.operands)
        )


def make_draft(function: FlatFunction) -> Draft:
    """Sorts the equations that lead from parameters to losses.

    **Errors:** those of `plan_endings`; `MissingRuleError` for an equation without a rule.
    """
    varying = closure(set(function.parameters), _solved(function))
    function = compose(write_losses(function, varying, is_loss), varying)
    equations = _solved(function)
    varying = closure(set(function.parameters), equations)
    endings = plan_endings(function, equations, varying)
    needed = _needed(equations, varying, endings)
    draft = Draft(variables=varying)
    for carry in function.carries:
        if carry in needed:
            draft.move(carry, Movement("partial"))
    moving: list[Equation] = []
    for equation in equations[: len(equations) - len(function.carries)]:
        if not any(value in varying for value in equation.outputs):
            draft.constant_equations.append(equation)
        elif equation in needed:
            moving.append(equation)
    ends = [value for x in function.carries if x in needed for value in x.inputs]
    _add_all(draft, join(moving, varying, [*ends, *endings.minimised]), {*ends, *endings.minimised})
    for value in endings.minimised:
        _apply_rule(draft, _minimised(value))
    _weigh_losses(draft, function, endings)
    return draft


def _minimised(value: Value) -> Equation:
    """The equation of `pjp.minimise` for a value that is returned without a loss."""
    step = Value(value.shape, value.dtype, np.broadcast_to(np.ones((), value.dtype), value.shape))
    output = Value(value.shape, value.dtype)
    return Equation(pp.minimise_p.primitive, {}, (value, step), (output,), pp.minimise_p.bind, "fn's result")


def _weigh_losses(draft: Draft, function: FlatFunction, endings: Endings) -> None:
    """Multiplies the steps of the losses, their last constants, by their weights.

    A negative weight is the opposite of what is minimised, and makes NaN of other losses.
    """
    draft.is_positive = endings.is_positive
    weights = weights_of(function, endings, draft.variables)
    if weights is None:
        return
    equation, values = weights
    draft.constant_equations.append(equation)
    losses = [index for index, node in enumerate(draft.nodes) if node.constraint.is_loss]
    for index, weight in zip(losses, values, strict=True):
        node = draft.nodes[index]
        *others, step = node.constants
        weighted = Value(step.shape, step.dtype)
        scale = _scaled if node.constraint.has_opposite else _scaled_up
        draft.constant_equations.append(
            Equation(lax.mul_p, {}, (step, weight), (weighted,), scale, node.source)
        )
        draft.nodes[index] = replace(node, constants=(*others, weighted))
        if node.constraint.has_opposite:
            draft.signed.append(weighted)
        else:
            draft.weights.append(weight)


def _scaled(step: Array, weight: Array) -> tuple[Array]:
    return (step * weight.astype(step.dtype),)


def _scaled_up(step: Array, weight: Array) -> tuple[Array]:
    return _scaled(step, jnp.where(weight < 0, jnp.nan, weight))


def _solved(function: FlatFunction) -> list[Equation]:
    """The equations without those that only serve the forward pass, and last the carries."""
    return [*(x for x in function.equations if x.primitive is not FORWARD), *function.carries]


def _needed(equations: Sequence[Equation], varying: set[Value], endings: Endings) -> set[Equation]:
    """The equations between parameters and losses."""
    losses = set(endings.losses)
    needed = set(losses)
    wanted = set(endings.minimised)
    size = -1
    while size < len(wanted):
        size = len(wanted)
        for equation in reversed(equations):
            if equation in losses or any(value in wanted for value in equation.outputs):
                needed.add(equation)
                wanted.update(value for value in equation.inputs if value in varying)
    return needed


def _add_all(draft: Draft, equations: Sequence[Equation], ends: set[Value]) -> None:
    """Adds equations; what has no rule as linearised constraints. `ends` are read by others."""
    wanted = {value for equation in equations for value in equation.inputs} | ends
    for equation in equations:
        if equation.primitive is TOGETHER and _linearise(draft, equation, wanted):
            continue
        try:
            _apply_rule(draft, equation)
        except MissingRuleError as error:
            found = _linearise(draft, equation, wanted) or _linearise(draft, equation, wanted, str(error))
            if not found:
                raise


def _linearise(draft: Draft, equation: Equation, wanted: set[Value], refusal: str | None = None) -> bool:
    """Adds the linearised constraint of an equation, and takes its outputs apart; whether it has one.

    **Arguments:** `refusal`, see `linearised`.
    """
    behind = {
        value: draft.moved_by[value][0].inputs[0]
        for value in equation.inputs
        if value in draft.moved_by and draft.moved_by[value][0].primitive is lax.stop_gradient_p
    }
    equation = hold_inside(equation, behind)
    moving = tuple(i for i, value in enumerate(equation.inputs) if value in draft.variables)
    outputs = [value for value in equation.outputs if value in wanted]
    found = linearised(equation, moving, outputs, refusal)
    if found is None:
        return False
    constraint, fixed = found
    operands, constants = ([equation.inputs[i] for i in positions] for positions in (moving, fixed))
    source, loops = equation.source, equation.loops
    if constraint.elementwise:
        constants = [draft.broadcast(value, outputs[0].shape, source) for value in constants]
    output = outputs[0]
    if len(outputs) > 1:
        lead = output.shape[: len(loops)]
        sizes = [math.prod(value.shape[len(loops) :]) for value in outputs]
        dtype = jnp.result_type(*(value.dtype for value in outputs))
        output = Value((*lead, sum(sizes)), dtype)
        draft.variables.add(output)
        stop = 0
        for value, size in zip(outputs, sizes, strict=True):
            start, stop = stop, stop + size
            draft.take_out(output, start, stop, value, source)
    draft.nodes.append(DraftNode(constraint, tuple(operands), tuple(constants), output, source, loops))
    return True


def _apply_rule(draft: Draft, equation: Equation) -> None:
    if equation.primitive is TOGETHER:  # what the first that has none alone says
        alone = Draft(variables=draft.variables)
        for member in equation.params["members"]:
            _apply_rule(alone, member)
    rule = rule_of(equation.primitive)
    name = equation.primitive.name
    if rule is None:
        raise MissingRuleError(
            f"{equation.source}: no projection rule for primitive {name!r}, whose input depends on "
            f"parameters. {remedy(name)}"
        )
    context = RuleContext(
        equation.primitive,
        equation.params,
        equation.inputs,
        equation.outputs,
        tuple(value not in draft.variables for value in equation.inputs),
        tuple(_number(value) for value in equation.inputs),
    )
    try:
        meaning = rule(context)
    except GraphError as error:
        raise GraphError(f"{equation.source}: {error}") from error
    except NotImplementedError as error:
        raise MissingRuleError(
            f"{equation.source}: the rule of primitive {name!r} does not cover {error}"
        ) from error
    if isinstance(meaning, Movement):
        draft.move(equation, meaning)
        return
    chosen = [[equation.inputs[i] for i in positions] for positions in (meaning.operands, meaning.constants)]
    (output,) = equation.outputs
    if meaning.broadcast:
        chosen = [
            [draft.broadcast(value, output.shape, equation.source) for value in values] for values in chosen
        ]
    operands, constants = chosen
    draft.nodes.append(
        DraftNode(
            meaning.constraint,
            tuple(operands),
            tuple(constants),
            output,
            equation.source,
            equation.loops,
        )
    )


def _number(value: Value) -> float | None:
    return None if value.literal is None or value.shape else float(value.literal)
