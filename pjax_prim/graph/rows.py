"""Layer norms, softmax and logsumexp, however they are written, become one constraint.

A group of equations with one input and one output of its shape is a norm if it is one of the examples below:
t / sqrt(mean t^2 + eps) over some axes, with t = x or x - mean x and eps a number written in the program.
It is a softmax if it is exp(x) / sum exp(x) over some axes, with or without the largest x taken off, and a
logsumexp if it is log sum exp(x), also where axes of size 1 are in the place of those that are gone. Their
elementary constraints meet far more slowly (`benchmarks/compositions.py`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import primitives as pp
from .groups import Group, Groups
from .ir import Equation, Value
from .match import PLACEHOLDERS, Bindings, Pattern, has_patterns, make_pattern

_COUNT = 13
"""How many numbers the examples average; in a program it is the size of the axes that are averaged."""

Axes = tuple[int | None, ...]
"""The axes of the group's input that the axes of a value are; None for an axis of size 1."""


@dataclass(frozen=True)
class OverAxes:
    """`output` is a function of `root` over `axes`; `inside`, what was made on the way.

    `definition` is the library's primitive for it, with the parameters `static` beside the axes.
    """

    root: Value
    output: Value
    axes: tuple[int, ...]
    inside: frozenset[Value]
    definition: pp.Definition
    static: dict[str, Any]


def plan_rows(equations: Iterable[Equation], groups: Groups) -> list[OverAxes]:
    """All groups that are norms, softmax or logsumexp.

    Values inside must be used nowhere else: they have no copies then.
    """
    plans: list[OverAxes] = []
    roots = tuple(root for root in _QUOTIENTS if root in groups.terms.operations)
    finders: list[Callable[[Equation, Groups], OverAxes | None]] = []
    if roots:
        finders.append(partial(_norm_of, roots=roots))
    if lax.exp_p in groups.terms.operations:
        finders += [partial(_exponentials_of, definition=x) for x in (pp.softmax_p, pp.logsumexp_p)]
    for last in equations:
        if last.primitive not in _LAST or last.outputs[0] not in groups.varying:
            continue
        if has_patterns(last.outputs[0].dtype):
            plans += [x for find in finders if (x := find(last, groups)) is not None]
    return plans


_LAST = (lax.mul_p, lax.div_p, lax.exp_p, lax.log_p, lax.add_p)


def _plan(group: Group, axes: tuple[int, ...], definition: pp.Definition, **static: Any) -> OverAxes:
    inside = frozenset(value for x in group.equations for value in x.outputs)
    return OverAxes(group.root, group.output, axes, inside, definition, static)


def _exponentials_of(last: Equation, groups: Groups, definition: pp.Definition) -> OverAxes | None:
    """A softmax or a logsumexp."""
    (output,) = last.outputs
    term = groups.terms.of(output)
    dtype, x64 = jnp.dtype(output.dtype).name, bool(jax.config.read("jax_enable_x64"))
    for pattern in _patterns_of_exponentials(definition, dtype, x64):
        bindings = pattern.bind(term)
        group = None if bindings is None else groups.between(bindings[pattern.inputs[0]], last)
        axes = None if group is None else _averaged(group, groups.varying, definition is pp.logsumexp_p)
        if group is not None and axes is not None:
            return _plan(group, axes, definition)
    return None


def _exponentials(x: Any) -> tuple[Callable[[], Any], ...]:
    """The ways to write an exponential, up to a factor for all of them."""
    return (
        lambda: jnp.exp(x),
        lambda: jnp.exp(x - jnp.max(x, -1, keepdims=True)),
        lambda: jnp.exp(x - lax.stop_gradient(jnp.max(x, -1, keepdims=True))),
    )


_SOFTMAXES: tuple[Callable[[Any], Any], ...] = (
    jax.nn.softmax,
    lambda x: jnp.exp(jax.nn.log_softmax(x)),
    lambda x: jnp.exp(x - jax.nn.logsumexp(x, -1, keepdims=True)),
    *(
        lambda x, i=i, quotient=quotient: quotient(_exponentials(x)[i]())
        for i in range(3)
        for quotient in (
            lambda t: t / jnp.sum(t, -1, keepdims=True),
            lambda t: t * (1 / jnp.sum(t, -1, keepdims=True)),
        )
    ),
)


_LOGSUMEXPS: tuple[Callable[[Any], Any], ...] = (
    lambda x: jax.nn.logsumexp(x, -1),
    lambda x: jnp.log(jnp.sum(jnp.exp(x), -1)),
    *(
        lambda x, hold=hold, joined=joined: joined(m := hold(jnp.max(x, -1, keepdims=True)), x - m)
        for hold in (lambda m: m, lax.stop_gradient)
        for joined in (lambda m, t: jnp.log(jnp.sum(jnp.exp(t), -1, keepdims=True)) + m,)
    ),
)
"""Patterns do not tell an axis of size 1 from none."""


@cache
def _patterns_of_exponentials(definition: pp.Definition, dtype: str, x64: bool) -> tuple[Pattern, ...]:
    del x64
    x = jax.ShapeDtypeStruct((2, _COUNT), dtype)
    examples = _SOFTMAXES if definition is pp.softmax_p else _LOGSUMEXPS
    found = (make_pattern(function, [x], ()) for function in examples)
    return tuple(sorted(found, key=lambda pattern: -pattern.size))  # x less its maximum is a vector, too


def _norm_of(last: Equation, groups: Groups, roots: tuple[Any, ...]) -> OverAxes | None:
    (output,) = last.outputs
    term = groups.terms.of(output)
    kind = jnp.dtype(output.dtype).name, bool(jax.config.read("jax_enable_x64"))
    for center, pattern in (x for root in roots for x in _patterns(root, *kind)):
        bindings = pattern.bind(term)
        if bindings is None:
            continue
        group = groups.between(bindings[pattern.inputs[0]], last)
        axes = None if group is None else _averaged(group, groups.varying)
        if group is None or axes is None or not _counts(pattern, bindings, group, axes):
            continue
        eps = {bindings[x].number for x in pattern.parameters[0]}
        if len(eps) == 1 and 0 < (number := eps.pop()) < np.inf:
            return _plan(group, axes, pp.normalize_p, eps=number, center=center)
    return None


def _counts(pattern: Pattern, bindings: Bindings, group: Group, axes: tuple[int, ...]) -> bool:
    """Whether sums are divided by the number of what is added."""
    count = np.prod([group.root.shape[axis] for axis in axes])
    literals = [bindings[x].literal for x in pattern.parameters[1]]
    return all(literal == np.asarray(count).astype(literal.dtype) for literal in literals)


def _average(x: Any) -> Any:
    return jnp.mean(x, -1, keepdims=True)


def _squares(t: Any) -> Any:
    return jnp.mean(t * t, -1, keepdims=True)


_VARIANCES: tuple[Callable[[Any], Any], ...] = (
    lambda x: jnp.var(x, -1, keepdims=True),
    lambda x: _squares(x - _average(x)),
    lambda x: _squares(x) - _average(x) ** 2,
    lambda x: jnp.maximum(0.0, jnp.var(x, -1, keepdims=True)),
    lambda x: jnp.maximum(0.0, _squares(x) - _average(x) ** 2),
)
_QUOTIENTS: dict[Any, tuple[Callable[[Any, Any], Any], ...]] = {
    lax.sqrt_p: (lambda t, v: t / jnp.sqrt(v), lambda t, v: t * (1 / jnp.sqrt(v))),
    lax.rsqrt_p: (lambda t, v: t * lax.rsqrt(v),),
    lax.pow_p: (lambda t, v: t / v**0.5,),
}
"""The forms by the operation that takes the root, as what a program has not is not traced."""


@cache
def _patterns(root: Any, dtype: str, x64: bool) -> tuple[tuple[bool, Pattern], ...]:
    """The examples with a root: for each whether it is centred, and its trace."""
    del x64
    x = jax.ShapeDtypeStruct((2, _COUNT), dtype)
    found = []
    for variance, quotient in product((None, *_VARIANCES), _QUOTIENTS[root]):

        def norm(x: Any, eps: float, _: Any, variance: Any = variance, quotient: Any = quotient) -> Any:
            if variance is None:
                return quotient(x, _squares(x) + eps)
            return quotient(x - _average(x), variance(x) + eps)

        pattern = make_pattern(norm, [x], (PLACEHOLDERS[0], _COUNT))
        found.append((variance is not None, pattern))
    return tuple(found)


_REDUCTIONS = (lax.reduce_sum_p, lax.psum_p, lax.reduce_max_p, lax.pmax_p)


def _averaged(group: Group, varying: set[Value], reduces: bool = False) -> tuple[int, ...] | None:
    """The axes of the root that every sum and maximum of a group is over; None if they differ or are lost.

    With `reduces` the output has the others, in their order, and else all.
    """
    root = group.root
    known: dict[Value, Axes] = {root: tuple(None if n == 1 else i for i, n in enumerate(root.shape))}
    summed: set[tuple[int, ...]] = set()
    for step in group.equations:
        inputs = [value for value in step.inputs if value in varying]
        output = step.outputs[0]
        axes = known[inputs[0]]
        if step.primitive in _REDUCTIONS:
            gone = step.params["axes"]
            if gone:
                summed.add(tuple(sorted(axis for i in gone if (axis := axes[i]) is not None)))
            found: Axes | None = tuple(axis for i, axis in enumerate(axes) if i not in gone)
        elif step.primitive is lax.broadcast_in_dim_p:
            found = _broadcast_axes(axes, inputs[0].shape, step, root)
        elif step.primitive in (lax.reshape_p, lax.squeeze_p):
            found = _reshaped_axes(axes, output.shape, root)
        else:
            found = _common_axes([known[value] for value in inputs])
        if found is None:
            return None
        known[output] = found
    if len(summed) != 1 or 0 in root.shape:
        return None
    (axes,) = summed
    if reduces:
        left = [axis for axis in known[group.output] if axis is not None]
        is_output = left == [axis for axis in known[root] if axis is not None and axis not in axes]
    else:
        is_output = known[group.output] == known[root]
    return axes or None if is_output else None


def _common_axes(given: list[Axes]) -> Axes | None:
    """The axes of an elementwise operation, whose operands may have axes of size 1 where others do not."""
    found = []
    for axes in zip(*filter(None, given), strict=True):
        named = {axis for axis in axes if axis is not None}
        if len(named) > 1:
            return None
        found.append(named.pop() if named else None)
    return tuple(found)


def _broadcast_axes(axes: Axes, shape: tuple[int, ...], step: Equation, root: Value) -> Axes | None:
    found: list[int | None] = []
    places = {o: i for i, o in enumerate(step.params["broadcast_dimensions"])}
    for o, size in enumerate(step.outputs[0].shape):
        kept = o in places and shape[places[o]] == size
        if kept or size == 1:
            found.append(axes[places[o]] if kept else None)
        elif len(step.outputs[0].shape) == len(root.shape) and root.shape[o] == size:
            found.append(o)
        else:
            return None
    return tuple(found)


def _reshaped_axes(axes: Axes, shape: tuple[int, ...], root: Value) -> Axes | None:
    """Where a reshape only adds or removes axes of size 1."""
    left = [axis for axis in axes if axis is not None]
    if [root.shape[axis] for axis in left] != [n for n in shape if n != 1]:
        return None
    rest = iter(left)
    return tuple(None if n == 1 else next(rest) for n in shape)
