"""What a function makes of its losses: where its graph ends, and what each loss weighs.

Losses are nodes. The arithmetic after them, up to the value that the function returns, has to be linear: the
weight of a loss's element is the derivative of the value by it. What reaches the value without a loss is
minimised (`pjp.minimise`), at the last operations that are not linear.

`plan_endings` only analyses; `weights_of` makes the constants by which the steps of losses are multiplied.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jaxtyping import Array

from ..errors import GraphError
from ..rules import is_loss
from .ir import CARRY, Environment, Equation, Value, abstract, closure, evaluate, read
from .linearity import BILINEAR, is_linear
from .trace import FlatFunction

_EVEN = {lax.convert_element_type_p, lax.copy_p, lax.reduce_sum_p, lax.reshape_p, lax.squeeze_p}
"""Treat all elements of a loss alike."""


@dataclass(frozen=True)
class Endings:
    """Where a function's graph ends.

    - `losses`: equations, in their order.
    - `minimised`: values that reach the result without a loss.
    - `tail`: the linear equations after these, in their order.
    - `is_even`: whether all weights are known to be one positive number.
    - `is_positive`: whether no weight can be negative.
    """

    losses: tuple[Equation, ...]
    minimised: tuple[Value, ...]
    tail: tuple[Equation, ...]
    is_even: bool
    is_positive: bool


def plan_endings(function: FlatFunction, equations: Sequence[Equation], varying: set[Value]) -> Endings:
    """Walks back from what the function returns.

    **Errors:** `GraphError` where a result depends on no parameter or is no floating-point number, and where
    the arithmetic after a loss is not linear.
    """
    made_by = {value: equation for equation in equations for value in equation.outputs}
    losses: set[Equation] = set()
    tail: set[Equation] = set()
    minimised: list[Value] = []
    seen: set[Value] = set()
    waiting = [value for value in function.outputs if value in varying]
    for position, value in enumerate(function.outputs):
        if value in varying and not jnp.issubdtype(value.dtype, jnp.floating):
            raise GraphError(
                f"fn: result {position} (shape {value.shape}) is of dtype {value.dtype}; return "
                "floating-point numbers"
            )
    while waiting:
        value = waiting.pop()
        if value in seen:
            continue
        seen.add(value)
        equation = made_by.get(value)
        if equation is not None and is_loss(equation.primitive):
            losses.add(equation)
        elif equation is not None and equation.primitive is lax.stop_gradient_p:
            continue
        elif equation is not None and is_linear(equation, varying):
            tail.add(equation)
            waiting += [x for x in equation.inputs if x in varying]
        else:
            minimised.append(value)
    if minimised and len(function.outputs) > 1:
        raise GraphError(
            f"fn: one of {len(function.outputs)} results depends on parameters but is no loss; return one "
            "number, or losses only, and anything else as auxiliary output (has_aux=True)"
        )
    reported = _after_losses(equations, varying)
    for value in minimised:
        equation = made_by.get(value)
        if equation is not None and value in reported:
            raise GraphError(
                f"{equation.source}: {equation.primitive.name!r} after a loss is not linear in it, so the "
                "loss has no weight; a solver needs sums and multiples of losses (pjp.displacement takes any "
                "arithmetic)"
            )
    for equation in losses:
        if any(x in reported for x in equation.inputs if x in varying):
            raise GraphError(f"{equation.source}: a loss of a loss has no projection; return the inner loss")
    if not (losses or minimised):
        raise GraphError(
            "fn: what it returns depends on no parameter: no loss depends on the parameters; end the "
            "function in a loss of its outputs, for instance pjp.cross_entropy"
        )
    after = [x for x in equations if x in tail]
    ends = len(losses) + len(minimised)
    return Endings(
        tuple(x for x in equations if x in losses),
        tuple(minimised),
        tuple(after),
        ends == 1 and len(function.outputs) == 1 and all(_is_even(x, varying) for x in after),
        all(_is_positive(x, varying) for x in after),
    )


def weights_of(
    function: FlatFunction, endings: Endings, varying: set[Value]
) -> tuple[Equation, tuple[Value, ...]] | None:
    """A constant equation that makes the relative weights of the elements of losses and of what is minimised.

    They are relative to the mean size of the weights of all elements that have one.

    **Returns:** the equation and its outputs, those of the losses first; None if all weights are 1.
    """
    if endings.is_even:
        return None
    ends = (*(x.outputs[0] for x in endings.losses), *endings.minimised)
    inner = {y for x in endings.tail for y in x.outputs}
    outputs = [x for x in function.outputs if x in inner or x in ends]
    given = dict.fromkeys(
        x for equation in endings.tail for x in equation.inputs if x.literal is None and x not in varying
    )
    produced = tuple(Value(x.shape, x.dtype) for x in ends)
    equation = Equation(
        _WEIGHTS,
        {},
        tuple(given),
        produced,
        partial(_weights, endings.tail, ends, tuple(given), tuple(outputs)),
        endings.losses[0].source if endings.losses else "",
    )
    return equation, produced


_WEIGHTS = Primitive("weights_of_losses")


def _weights(
    tail: Sequence[Equation],
    ends: Sequence[Value],
    given: Sequence[Value],
    outputs: Sequence[Value],
    *arrays: Array,
) -> tuple[Array, ...]:
    constants: Environment = dict(zip(given, arrays, strict=True))
    steps = [x for x in tail if x.primitive is not CARRY]
    carries = [x for x in tail if x.primitive is CARRY]
    intos = [x.outputs[0] for x in carries]
    made = {y for x in steps for y in x.outputs}

    def forward(losses: list[Array], starts: list[Array]) -> tuple[Array, list[Array]]:
        environment = {**constants, **dict(zip(ends, losses, strict=True))}
        environment.update(zip(intos, starts, strict=True))
        for equation in tail:
            for value in equation.inputs:  # behind a stop_gradient
                if value not in environment and value not in made and value.literal is None:
                    environment[value] = jnp.zeros(value.shape, value.dtype)
        evaluate(steps, environment)
        passed = [x.apply(*(read(environment, y) for y in x.inputs))[0] for x in carries]
        means = [jnp.mean(environment[x]) for x in outputs]
        total = functools.reduce(jnp.add, means)
        return total, passed

    shapes = [abstract(x) for x in ends], [abstract(x) for x in intos]
    back = jax.linear_transpose(forward, *shapes)
    one = jnp.ones((), jax.eval_shape(forward, *shapes)[0].dtype)

    def once(_: int, state: tuple[list[Array], list[Array]]) -> tuple[list[Array], list[Array]]:
        losses, starts = back((one, state[1]))
        return losses, starts

    # Each time round credit goes one iteration further back through the carries.
    start: Any = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    rounds = 1 + math.prod({loop: loop.length for x in carries for loop in x.loops}.values()) * bool(carries)
    weights, _ = jax.lax.fori_loop(0, rounds, once, start) if carries else once(0, start)
    # What is nowhere, as the loss of a label out of range, has no weight but makes the value NaN.
    known = ~jnp.isnan(forward(*start)[0])
    return _relative([jnp.where(known, x, jnp.nan) for x in weights])


def _relative(weights: Sequence[Array]) -> tuple[Array, ...]:
    """Weights over their mean size, those that are zero left out; exactly 1 where all are equal."""
    largest = functools.reduce(jnp.maximum, [jnp.max(jnp.abs(x), initial=0) for x in weights])
    scaled = [x / jnp.where(largest > 0, largest, 1) for x in weights]
    count = sum(jnp.sum(x != 0) for x in scaled)
    mean = sum(jnp.sum(jnp.abs(x)) for x in scaled) / jnp.maximum(count, 1)
    return tuple(x / jnp.where(mean > 0, mean, 1) for x in scaled)


def _after_losses(equations: Sequence[Equation], varying: set[Value]) -> set[Value]:
    """What depends on a loss."""
    reported = {
        y
        for x in equations
        if is_loss(x.primitive) and any(z in varying for z in x.inputs)
        for y in x.outputs
    }
    return closure(reported, equations)


def _factor(equation: Equation, varying: set[Value]) -> float | None:
    """The number by which an equation multiplies or divides what varies; None if it does something else."""
    if equation.primitive not in (lax.mul_p, lax.div_p):
        return None
    others = [x for x in equation.inputs if x not in varying]
    if len(others) != 1 or others[0].literal is None or others[0].size != 1:
        return None
    return float(others[0].literal)


def _is_even(equation: Equation, varying: set[Value]) -> bool:
    factor = _factor(equation, varying)
    return equation.primitive in _EVEN or (factor is not None and 0 < factor < math.inf)


def _is_positive(equation: Equation, varying: set[Value]) -> bool:
    factor = _factor(equation, varying)
    if factor is not None:
        return factor > 0
    if equation.primitive in (lax.neg_p, lax.sub_p, lax.mul_p, lax.div_p, *BILINEAR):
        # What is taken away from, by a constant, keeps its sign.
        return equation.primitive is lax.sub_p and equation.inputs[1] not in varying
    return True
