"""Equations that only together have a good projection become one.

- A composition of elementwise operations on one value that is one of the `examples` (`jax.nn.gelu` and
  its like arrive as such chains).
- A layer norm, a softmax or a logsumexp (`rows`).
- `jnp.where` with comparisons of values that depend on parameters (`selections`).

`plan_compositions` only analyses; `compose` makes the new equations. Nothing is compiled or evaluated.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jax import lax

from .. import primitives as pp
from .examples import patterns
from .groups import Group, Groups
from .ir import Equation, Value, reshaping
from .match import has_patterns
from .rows import OverAxes, plan_rows
from .selections import select
from .trace import FlatFunction


@dataclass(frozen=True)
class Composition:
    """`output` is the named function of `root`."""

    root: Value
    output: Value
    function: str
    parameters: tuple[float, ...]


def compose(function: FlatFunction, varying: set[Value]) -> FlatFunction:
    """The function with compositions and selections as single equations."""
    groups = Groups(function, varying)
    rows = {plan.output: plan for plan in plan_rows(function.equations, groups)}
    inside = {value for plan in rows.values() for value in plan.inside}
    compositions = {plan.output: plan for plan in plan_compositions(function.equations, groups, inside)}
    composed: list[Equation] = []
    for equation in function.equations:
        first = equation.outputs[0] if equation.outputs else None
        if first in rows:
            composed += _over_axes(equation, rows[first])
            continue
        if first in compositions:
            equation = _composed(equation, compositions[first])
        composed.append(equation)
    return replace(function, equations=tuple(select(composed, varying)))


def plan_compositions(
    equations: Iterable[Equation], groups: Groups, inside: set[Value] | frozenset[Value] = frozenset()
) -> list[Composition]:
    """The largest compositions that are in the table, last ones first.

    **Arguments:** `inside`, values that are gone already.
    """
    plans: list[Composition] = []
    taken = set(inside)
    operations = groups.terms.operations
    for equation in reversed(tuple(equations)):
        if len(equation.outputs) != 1:
            continue
        (output,) = equation.outputs
        if output in taken or output not in groups.varying or not has_patterns(output.dtype):
            continue
        found = _composition(equation, groups, operations)
        if found is not None:
            group, function, parameters = found
            plans.append(Composition(group.root, output, function, parameters))
            taken.update(value for x in group.equations for value in x.outputs)
    return plans


def _composition(
    equation: Equation, groups: Groups, operations: frozenset[Any]
) -> tuple[Group, str, tuple[float, ...]] | None:
    (output,) = equation.outputs
    term = groups.terms.of(output)
    for example, pattern in patterns(output.dtype, operations).get(term.operation, ()):
        bindings = pattern.bind(term)
        if bindings is None:
            continue
        read = pattern.read(bindings)
        parameters = None if read is None else example.accept(*read)
        if parameters is None:
            continue
        group = groups.between(bindings[pattern.inputs[0]], equation)
        if group is not None and len(group.equations) > 1 and _is_pointwise(group, groups.varying):
            return group, example.name, parameters
    return None


def _is_pointwise(group: Group, varying: set[Value]) -> bool:
    """Whether all that depends on the root has its shape: terms do not tell axes."""
    values = {value for x in group.equations for value in (*x.inputs, *x.outputs) if value in varying}
    return all(value.shape == group.root.shape for value in values)


def _composed(equation: Equation, plan: Composition) -> Equation:
    if plan.function == "relu":
        return _as(equation, pp.sum_relu_p, plan.root)
    if plan.function in ("maximum", "minimum"):
        dtype = plan.root.dtype
        bound = Value((), dtype, np.asarray(plan.parameters[0], dtype))
        primitive = lax.max_p if plan.function == "maximum" else lax.min_p
        apply = lax.max if plan.function == "maximum" else lax.min
        return replace(
            equation,
            primitive=primitive,
            params={},
            inputs=(plan.root, bound),
            apply=lambda x, c: (apply(x, lax.full_like(x, c)),),
        )
    return _as(equation, pp.scalar_p, plan.root, function=plan.function, parameters=plan.parameters)


def _over_axes(equation: Equation, plan: OverAxes) -> list[Equation]:
    shape = plan.root.shape
    axes = tuple(axis - len(shape) for axis in plan.axes)
    new = _as(equation, plan.definition, plan.root, axes=axes, **plan.static)
    left = tuple(size for axis, size in enumerate(shape) if axis not in plan.axes)
    if plan.definition is not pp.logsumexp_p or plan.output.shape == left:
        return [new]
    # Axes of size 1 are where others were.
    reduced = Value(left, plan.output.dtype)
    return [
        replace(new, outputs=(reduced,)),
        reshaping(reduced, plan.output, equation.source, equation.loops),
    ]


def _as(equation: Equation, definition: pp.Definition, *inputs: Value, **params: Any) -> Equation:
    """The equation's outputs by one of the library's primitives."""
    return replace(
        equation,
        primitive=definition.primitive,
        params=params,
        inputs=inputs,
        apply=partial(definition.bind, **params),
    )
