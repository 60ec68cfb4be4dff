"""Equations that only together have a good projection become one.

- A composition of elementwise operations on one value that is a function of `primitives.curves`, or
  a relu (`jax.nn.gelu` and its like arrive as such chains).
- A layer norm (`graph.rows`).
- `jnp.where` with a comparison of values that depend on parameters.

`plan_compositions` and `plan_selections` only analyse; `compose` makes the new equations.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from .. import primitives as pp
from ..primitives.recognise import SAMPLES, recognise
from .groups import ELEMENTWISE, Groups
from .ir import Equation, Value
from .rows import Norm, plan_norms
from .trace import FlatFunction

_COMPARISONS = {lax.gt_p: "gt", lax.ge_p: "ge", lax.lt_p: "lt", lax.le_p: "le"}


@dataclass(frozen=True)
class Composition:
    """`output` is the named function of `root`."""

    root: Value
    output: Value
    function: str
    parameters: tuple[float, ...]


@dataclass(frozen=True)
class Selection:
    """The select equation that makes `output` chooses by `comparison`.

    If `always` is a value it is that one, because iterates are finite: the comparison asks whether
    something is.
    """

    output: Value
    comparison: Equation
    always: Value | None = None


def compose(function: FlatFunction, varying: set[Value]) -> FlatFunction:
    """The function with compositions and selections as single equations."""
    norms = {plan.output: plan for plan in plan_norms(function, varying)}
    equations = (
        _normed(equation, norms[equation.outputs[0]])
        if equation.outputs and equation.outputs[0] in norms
        else equation
        for equation in function.equations
    )
    function = replace(function, equations=tuple(equations))
    compositions = {plan.output: plan for plan in plan_compositions(function, varying)}
    selections = {plan.output: plan for plan in plan_selections(function, varying)}
    composed = []
    for equation in function.equations:
        first = equation.outputs[0] if equation.outputs else None
        if first in compositions:
            equation = _composed(equation, compositions[first])
        elif first in selections:
            equation = _selected(equation, selections[first])
        composed.append(equation)
    return replace(function, equations=tuple(composed))


def plan_compositions(function: FlatFunction, varying: set[Value]) -> list[Composition]:
    """The longest compositions that are in the table, last ones first.

    Values inside must be used nowhere else: they have no copies then.
    """
    groups = Groups(function, varying, _is_pointwise)
    plans: list[Composition] = []
    taken: set[Equation] = set()
    known: dict[str, Any] = {}
    for equation in reversed(function.equations):
        if equation in taken or not _is_pointwise(equation, varying):
            continue
        output = equation.outputs[0]
        if not jnp.issubdtype(output.dtype, jnp.floating):
            continue
        for root, members in groups.ending_at(equation):
            steps = groups.closed(root, members)
            found = None if steps is None else _function_of(root, output, steps, known)
            if found is not None:
                plans.append(Composition(root, output, *found))
                taken.update(members)
                break
    return plans


def _is_pointwise(equation: Equation, varying: set[Value]) -> bool:
    if equation.primitive not in ELEMENTWISE or equation.outputs[0] not in varying:
        return False
    shape = equation.outputs[0].shape
    return all(value.shape == shape for value in equation.inputs if value in varying)


def _function_of(
    root: Value, output: Value, steps: list[Equation], known: dict[str, Any]
) -> tuple[str, tuple[float, ...]] | None:
    """The name of the function that the steps compute, with its parameters."""
    numbers = {value: number for number, value in enumerate([root, *(x.outputs[0] for x in steps)])}
    key = repr([
        (x.primitive, sorted((k, str(v)) for k, v in x.params.items() if k not in ("shape", "sharding",
         "broadcast_dimensions")), [numbers.get(v, v.literal) for v in x.inputs])
        for x in steps
    ] + [root.dtype])  # fmt: skip
    if key not in known:
        with jax.ensure_compile_time_eval():
            values = np.asarray(jax.jit(partial(_evaluate, steps, root, output))(_samples(root)))
        known[key] = recognise(values.astype(np.float64), float(jnp.finfo(root.dtype).eps))
    result: tuple[str, tuple[float, ...]] | None = known[key]
    return result


def _samples(root: Value) -> Array:
    return jnp.asarray(SAMPLES, root.dtype)


def _evaluate(steps: list[Equation], root: Value, output: Value, x: Array) -> Array:
    """The steps on any array in the place of the root."""
    environment: dict[Value, Array] = {root: x}
    for step in steps:
        inputs = [
            jnp.broadcast_to(jnp.asarray(value.literal, value.dtype).reshape(()), x.shape)
            if value.literal is not None
            else environment[value]
            for value in step.inputs
        ]
        if step.primitive is lax.broadcast_in_dim_p:
            environment[step.outputs[0]] = inputs[0]
        else:
            environment[step.outputs[0]] = step.primitive.bind(*inputs, **step.params)
    return environment[output]


def plan_selections(function: FlatFunction, varying: set[Value]) -> list[Selection]:
    """Selects whose predicate is a comparison that depends on parameters."""
    made_by = {value: equation for equation in function.equations for value in equation.outputs}
    plans = []
    for equation in function.equations:
        if equation.primitive is not lax.select_n_p or len(equation.inputs) != 3:
            continue
        comparison = made_by.get(equation.inputs[0])
        if equation.inputs[0] not in varying or comparison is None:
            continue
        _, when_false, when_true = equation.inputs
        if comparison.primitive is lax.ne_p and comparison.inputs[0] is comparison.inputs[1]:
            plans.append(Selection(equation.outputs[0], comparison, when_false))
        elif comparison.primitive is lax.is_finite_p:
            plans.append(Selection(equation.outputs[0], comparison, when_true))
        elif comparison.primitive in _COMPARISONS and equation.inputs[0].shape == equation.outputs[0].shape:
            plans.append(Selection(equation.outputs[0], comparison))
    return plans


def _composed(equation: Equation, plan: Composition) -> Equation:
    if plan.function == "relu":
        return _as(equation, pp.sum_relu_p, plan.root)
    return _as(equation, pp.scalar_p, plan.root, function=plan.function, parameters=plan.parameters)


def _normed(equation: Equation, plan: Norm) -> Equation:
    axes = tuple(axis - len(plan.root.shape) for axis in plan.axes)
    return _as(equation, pp.normalize_p, plan.root, axes=axes, eps=plan.eps, center=plan.center)


def _as(equation: Equation, definition: pp.Definition, *inputs: Value, **params: Any) -> Equation:
    """The equation's outputs by one of the library's primitives."""
    return replace(
        equation,
        primitive=definition.primitive,
        params=params,
        inputs=inputs,
        apply=partial(definition.bind, **params),
    )


def _selected(equation: Equation, plan: Selection) -> Equation:
    if plan.always is not None:
        return replace(equation, primitive=lax.copy_p, params={}, inputs=(plan.always,), apply=lambda x: (x,))
    _, when_false, when_true = equation.inputs
    compare = _COMPARISONS[plan.comparison.primitive]
    return _as(equation, pp.select_p, *plan.comparison.inputs, when_true, when_false, compare=compare)
