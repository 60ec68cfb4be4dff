"""Elementwise operations gathered into few loops, for XLA's CPU backend.

That backend compiles every loop on its own, 15 to 25 ms each, and begins another wherever two operations read
a third that is dear: a step of Newton's method becomes three. A `stablehlo.map` is one loop, whatever the
length of its scalar function. So a function of arrays is walked once, and elementwise operations of one shape
that end in a single result become one map.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Literal, Primitive
from jax.interpreters.ad import add_jaxvals_p
from jaxtyping import Array

from pjax_prim._compat import called_jaxpr, evaluator, lower_as_map, open_jaxpr, with_bodies

from .reductions import grouped

_CHEAP = frozenset(
    {
        lax.add_p, lax.sub_p, lax.mul_p, lax.neg_p, lax.max_p, lax.min_p, lax.abs_p, lax.sign_p, lax.square_p,
        lax.select_n_p, lax.clamp_p, lax.eq_p, lax.ne_p, lax.lt_p, lax.le_p, lax.gt_p, lax.ge_p, lax.and_p,
        lax.or_p, lax.not_p, lax.xor_p, lax.convert_element_type_p, lax.is_finite_p, lax.integer_pow_p,
        add_jaxvals_p, lax.copy_p,
    }
)  # fmt: skip
"""What XLA computes again for each reader."""

_DEAR = frozenset(
    {
        lax.div_p, lax.sqrt_p, lax.rsqrt_p, lax.cbrt_p, lax.exp_p, lax.exp2_p, lax.expm1_p, lax.log_p,
        lax.log1p_p, lax.tanh_p, lax.logistic_p, lax.erf_p, lax.erfc_p, lax.erf_inv_p, lax.sin_p, lax.cos_p,
        lax.tan_p, lax.asin_p, lax.acos_p, lax.atan_p, lax.atan2_p, lax.sinh_p, lax.cosh_p, lax.asinh_p,
        lax.acosh_p, lax.atanh_p, lax.pow_p, lax.floor_p, lax.ceil_p, lax.round_p, lax.bitcast_convert_type_p,
    }
)  # fmt: skip
"""What it stores, a loop each, where there are several readers."""

_ELEMENTWISE = _CHEAP | _DEAR

_MANY = 6
"""From how many operations on a group of cheap ones is a loop of its own."""

_FEW = 120
"""How many operations are computed again rather than stored, at most."""

pointwise_p = Primitive("pjax_pointwise")
"""A scalar function of the elements of arrays of one shape; `dtype` is that of its result."""


@pointwise_p.def_abstract_eval
def _abstract(first: Any, *others: Any, function: Any, dtype: Any, weak_type: bool) -> Any:
    return first.update(dtype=dtype, weak_type=weak_type)


lower_as_map(pointwise_p)


_WIDE = {frozenset(), *(frozenset({jnp.dtype(name)}) for name in ("float32", "float64"))}


@dataclass(frozen=True)
class _Step:
    """An equation of inlined jaxprs. An input is the number of a value, or a literal.

    `elements` are inputs as well: where one repeats a scalar, the scalar.
    """

    equation: Any
    inputs: tuple[Any, ...]
    elements: tuple[Any, ...]
    outputs: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.equation.outvars[0].aval.shape
        return shape

    @cached_property
    def floats(self) -> frozenset[Any]:
        """The dtypes of its numbers; a map may have one, which XLA does not widen."""
        dtypes = {x.aval.dtype for x in (*self.equation.invars, *self.equation.outvars)}
        return frozenset(x for x in dtypes if jnp.issubdtype(x, jnp.inexact))

    @cached_property
    def is_elementwise(self) -> bool:
        return self.equation.primitive in _ELEMENTWISE and self.floats in _WIDE

    @property
    def is_dear(self) -> bool:
        return self.equation.primitive in _DEAR


def gathered(name: str, jitted: Any, again: int) -> Callable[..., tuple[Array, ...]]:
    """A jitted function of arrays, with the same values from fewer loops; `name` is their scope.

    What several loops read is computed in each of them if that takes at most `again` dear operations, else
    it is stored, by a loop of its own.
    """

    def apply(*arrays: Array) -> tuple[Array, ...]:
        with jax.named_scope(name):
            return tuple(_evaluate(jitted.trace(*arrays).jaxpr, arrays, again))

    return apply


def _body(closed: Any, again: int) -> Any:
    """The same for the body of a loop or branch."""
    avals = [x.aval for x in open_jaxpr(closed)[0].invars]
    return jax.jit(lambda *arrays: _evaluate(closed, arrays, again)).trace(*avals).jaxpr


def _evaluate(closed: Any, arrays: Sequence[Any], again: int) -> list[Any]:
    jaxpr, constants = open_jaxpr(closed)
    steps: list[_Step] = []
    numbers = itertools.count()
    values = dict(zip(numbers, (*constants, *arrays), strict=False))
    results = _flatten(jaxpr, list(values), numbers, steps, {}, {})

    def read(x: Any) -> Any:
        return values[x] if isinstance(x, int) else x.val

    for group in _groups(steps, results, again):
        last = group[-1]
        if len(group) > 1:
            values[last.outputs[0]] = _map(group, read)
        else:
            run = grouped(last.equation) or evaluator(with_bodies(last.equation, partial(_body, again=again)))
            values.update(zip(last.outputs, run(*map(read, last.inputs)), strict=True))
    return [read(x) for x in results]


def _flatten(
    jaxpr: Any,
    inputs: Sequence[Any],
    numbers: Iterator[int],
    steps: list[_Step],
    scalars: dict[int, Any],
    known: dict[Any, list[int]],
) -> list[Any]:
    """Appends the equations of a jaxpr, those of calls among them; gives its results.

    `scalars` are those that values repeat, `known` the results of elementwise operations.
    """
    names = dict(zip((*jaxpr.constvars, *jaxpr.invars), inputs, strict=True))

    def name(atom: Any) -> Any:
        return atom if isinstance(atom, Literal) else names[atom]

    for equation in jaxpr.eqns:
        given = tuple(map(name, equation.invars))
        called = called_jaxpr(equation)
        same = _same_as(equation, given)
        if same in known:
            found = known[same]
        elif called is None:
            found = [next(numbers) for _ in equation.outvars]
            if same is not None:
                known[same] = found
            elements = tuple(scalars.get(x, x) if isinstance(x, int) else x for x in given)
            steps.append(_Step(equation, given, elements, tuple(found)))
            if equation.primitive is lax.broadcast_in_dim_p and not equation.invars[0].aval.shape:
                (scalars[found[0]],) = elements
        else:
            inner, constants = open_jaxpr(called)
            assert not constants
            found = _flatten(inner, given, numbers, steps, scalars, known)
        names.update(zip(equation.outvars, found, strict=True))
    return [name(atom) for atom in jaxpr.outvars]


def _same_as(equation: Any, inputs: Sequence[Any]) -> Any:
    """What two equal elementwise operations have in common; None for others."""
    if equation.primitive not in _ELEMENTWISE:
        return None
    values = (x if isinstance(x, int) else (x.aval.str_short(), np.asarray(x.val).tobytes()) for x in inputs)
    return equation.primitive, tuple(values), str(equation.params)


def _groups(steps: Sequence[_Step], results: Sequence[Any], again: int) -> list[list[_Step]]:
    """The steps in an order in which they can run; those of one loop together, its result last.

    An operation belongs to the loop of its readers if these are loops of its shape; to several, if that
    computes at most `again` dear operations again.
    """
    readers: dict[Any, set[int]] = {x: {-1} for x in results if isinstance(x, int)}
    for position in reversed(range(len(steps))):
        step = steps[position]
        if readers.keys().isdisjoint(step.outputs):
            continue  # nothing reads it
        for x in (*step.inputs, *step.elements):
            if isinstance(x, int):
                readers.setdefault(x, set()).add(position)
    made_by = {x: position for position, step in enumerate(steps) for x in step.outputs}

    def is_inner(position: int) -> bool:
        """Whether elementwise operations of its shape alone read it."""
        step = steps[position]
        read_by = readers.get(step.outputs[0], ())
        same = (i >= 0 and steps[i].is_elementwise and steps[i].shape == step.shape for i in read_by)
        return step.is_elementwise and all(same)

    inner = [is_inner(position) for position in range(len(steps))]

    def is_little(position: int) -> bool:
        """Whether what is computed where a step is may be computed again for each loop that reads it."""
        whole, pending = {position}, [position]
        dear = int(steps[position].is_dear)
        while pending and dear <= again and len(whole) <= _FEW:
            step = steps[pending.pop()]
            for x in step.elements:
                before = made_by.get(x) if isinstance(x, int) else None
                if before is None or before in whole or not inner[before]:
                    continue
                if steps[before].shape == step.shape:
                    whole.add(before)
                    pending.append(before)
                    dear += steps[before].is_dear
        return dear <= again and len(whole) <= _FEW

    loops: list[set[int]] = [set() for _ in steps]  # of each step, by the positions of their results
    floats: dict[int, frozenset[Any]] = {}
    for position in reversed(range(len(steps))):
        step = steps[position]
        if inner[position]:
            loops[position] = set().union(*(loops[i] for i in readers.get(step.outputs[0], ())))
            fits = all(len(floats[i] | step.floats) <= 1 for i in loops[position])
            if not fits or (len(loops[position]) > 1 and not is_little(position)):
                loops[position] = set()
        loops[position] = loops[position] or {position}
        for i in loops[position]:
            floats[i] = floats.get(i, frozenset()) | step.floats
    members: dict[int, list[int]] = {}
    for position, ends in enumerate(loops):
        for end in ends:
            members.setdefault(end, []).append(position)
    groups: dict[int, list[_Step]] = {}
    for last in sorted(members):
        group = [steps[x] for x in members[last]]
        inside = {x.outputs[0] for x in group}
        several = len(group) >= _MANY or any(x.is_dear for x in group)
        known = all(isinstance(x, Literal) or x in inside for step in group for x in step.elements)
        if several and not known:
            groups[last] = group
        else:
            groups |= {x: [steps[x]] for x in members[last] if x not in groups}
    used = (x for x in sorted(groups) if not readers.keys().isdisjoint(steps[x].outputs))
    return [groups[x] for x in used]


def _map(group: Sequence[_Step], read: Callable[[Any], Any]) -> Array:
    """The result of a group as one loop."""
    last = group[-1]
    inside = {x.outputs[0] for x in group}
    elements = (x for step in group for x in step.elements if isinstance(x, int))
    operands = list(dict.fromkeys(x for x in elements if x not in inside))

    def function(*scalars: Any) -> Any:
        values = dict(zip(operands, scalars, strict=True))
        for step in group:
            given = (values[x] if isinstance(x, int) else x.val for x in step.elements)
            (values[step.outputs[0]],) = evaluator(step.equation)(*given)
        return values[last.outputs[0]]

    aval = last.equation.outvars[0].aval
    arrays = [jnp.broadcast_to(read(x), aval.shape) for x in operands]
    result: Array = pointwise_p.bind(*arrays, function=function, dtype=aval.dtype, weak_type=aval.weak_type)
    return result
