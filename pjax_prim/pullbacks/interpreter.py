"""The user's own program, with the pullbacks of the table where it has derivatives.

`interpret` binds every equation of a jaxpr again. Operations without a pullback, and those that see no
parameter, are bound as they are. `jax.vjp` of the result then goes back through the pullbacks. Loops,
branches, checkpoints and mapped functions stay what they are and are entered (`calls.py`).

A comparison of numbers has no cotangent. Where its result becomes a number again, a displacement is to reach
what was compared: beside its value it carries a number, 0 or 1, that has a pullback (`Entry.soft`). So do
integers that are made of comparisons, such as their count.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from .._compat import EXTRA_MOVEMENTS, IDENTITIES, bind_equation
from ..walking import walk
from .convolutions import convolve, has_groups, is_convolution
from .products import DAMPED, Product
from .projections import Finite, constraint_of, projecting
from .registry import bind_with_pullback, is_differentiable, pullback_of
from .steps import choose, heaviside


class Entry(NamedTuple):
    """A value of the program.

    - `moves`: whether it depends on a parameter.
    - `weighs`: whether it is a parameter, or made of parameters by moving data.
    - `soft`: of a comparison, or an integer made of some, its result as a number that has a pullback.
    - `rounds`: of what is rounded, its operand.
    """

    value: Any
    moves: bool = False
    weighs: bool = False
    soft: Array | None = None
    rounds: Any = None


@dataclass(frozen=True)
class Settings:
    """What kind of pullbacks an interpretation takes.

    - `weight`: see `pjp.displacement`; None takes no pullbacks: the derivatives are JAX's own.
    - `finite`: None takes those to first order.
    - `loops`: whether the program runs inside of a loop, where convolutions are slow on CPU as they are.
    """

    weight: Any
    finite: Finite | None = None
    loops: bool = False


Call = Callable[[Settings, Any, Sequence[Entry]], list[Entry]]

CALLS: dict[Any, Call] = {}
"""How each primitive that calls a program is interpreted; `calls.py` fills it."""


def interpret(settings: Settings, closed: Any, arguments: Sequence[Entry]) -> list[Entry]:
    """Evaluates a jaxpr with pullbacks.

    **Arguments:** `closed`, with its constants; `arguments`, one for each of its inputs.
    """

    def run(equation: Any, entries: Sequence[Entry]) -> Sequence[Entry]:
        if not any(entry.moves for entry in entries):
            return list(map(Entry, _constant(equation, [x.value for x in entries])))
        if equation.primitive in CALLS:
            return CALLS[equation.primitive](settings, equation, entries)
        return _operation(settings, equation, entries)

    return walk(closed, arguments, Entry, run)


def _constant(equation: Any, values: Sequence[Any]) -> Sequence[Any]:
    """One operation that sees no parameter.

    Functions of JAX hold NaNs that they do not choose, as the mean of nothing. What runs eagerly here was
    inside a jitted function, where they are not looked for.
    """
    config: Any = jax.config
    with jax.debug_nans(False) if config.jax_debug_nans else contextlib.nullcontext():
        return bind_equation(equation, *values)


def _operation(settings: Settings, equation: Any, entries: Sequence[Entry]) -> list[Entry]:
    """One operation that sees a parameter."""
    primitive = equation.primitive
    values = [entry.value for entry in entries]
    moves = [entry.moves for entry in entries]
    if settings.weight is None:
        return [Entry(value, True) for value in _bind(settings, equation, *values)]
    if any(entry.soft is not None for entry in entries):
        found = _of_comparisons(equation, entries)
        if found is not None:
            return [found]
    if primitive is lax.sub_p:
        # What rounding leaves of a number, as the place between two pixels, has the slope of the number.
        for rounded, whole in ((0, 1), (1, 0)):
            if entries[rounded].rounds is values[whole]:
                values[rounded] = lax.stop_gradient(values[rounded])
                return [Entry(value, True) for value in bind_equation(equation, *values)]
    if primitive in _DIFFERENCES and all(is_differentiable(x) for x in values):
        (value,) = bind_equation(equation, *values)
        return [Entry(value, True, soft=heaviside(_DIFFERENCES[primitive](*values), value))]

    def bind(*operands: Any) -> tuple[Any, ...]:
        return _bind(settings, equation, *operands)

    pullback, weighs = pullback_of(primitive), [entry.weighs for entry in entries]
    if settings.finite is not None:
        rule = constraint_of(equation, moves)
        if rule is not None:
            pullback = projecting(rule, settings.finite)
    if pullback is not None and all(is_differentiable(x.aval) for x in equation.outvars):
        results = bind_with_pullback(
            bind, values, dict(equation.params), moves, settings.weight, pullback, primitive.name
        )
        rounds = values[0] if primitive in _ROUNDINGS else None
        return [Entry(value, True, rounds=rounds) for value in results]
    results = bind(*values)
    if primitive in DAMPED and any(weighs):
        product = Product(values, equation.params, moves, weighs, settings.weight)
        results = (DAMPED[primitive](results[0], product),)
    weigh = primitive in _MOVEMENTS and all(w or not m for w, m in zip(weighs, moves, strict=True))
    return [Entry(value, True, weigh) for value in results]


def _bind(settings: Settings, equation: Any, *operands: Any) -> tuple[Any, ...]:
    """One operation as it is, with a derivative that is right on every mesh, and fast in loops."""
    if has_groups(equation) or (settings.loops and is_convolution(equation)):
        return (convolve(equation.params, *operands),)
    return bind_equation(equation, *operands)


# Comparisons, and what becomes of their results.

_DIFFERENCES: dict[Any, Callable[..., Array]] = {
    lax.gt_p: jnp.subtract,
    lax.ge_p: jnp.subtract,
    lax.lt_p: lambda a, b: jnp.subtract(b, a),
    lax.le_p: lambda a, b: jnp.subtract(b, a),
}

_LOGIC: dict[Any, Callable[..., Array]] = {
    lax.not_p: lambda a: 1 - a,
    lax.and_p: lambda a, b: a * b,
    lax.or_p: lambda a, b: a + b - a * b,
    lax.xor_p: lambda a, b: a + b - 2 * a * b,
    lax.ne_p: lambda a, b: a + b - 2 * a * b,
    lax.eq_p: lambda a, b: 1 - a - b + 2 * a * b,
}
"""The logical operations of booleans as numbers."""

_ALL_OR_ANY: dict[Any, Callable[..., Array]] = {
    lax.reduce_and_p: lambda a, axes: jnp.prod(a, axes),
    lax.reduce_or_p: lambda a, axes: 1 - jnp.prod(1 - a, axes),
}

_COUNTS = {lax.add_p, lax.sub_p, lax.mul_p, lax.neg_p, lax.reduce_sum_p, lax.cumsum_p}
"""What integers made of comparisons have in common with the numbers that they are."""

_ROUNDINGS = {lax.ceil_p, lax.floor_p, lax.round_p}

_MOVEMENTS = {
    lax.broadcast_in_dim_p, lax.concatenate_p, lax.convert_element_type_p, lax.copy_p, lax.gather_p,
    lax.reshape_p, lax.rev_p, lax.slice_p, lax.squeeze_p, lax.transpose_p, *EXTRA_MOVEMENTS,
    *IDENTITIES,
}  # fmt: skip
"""What only moves data: a parameter stays one, and the result of a comparison."""


def register_movement(primitive: Any) -> None:
    """Says of a primitive that it only moves data."""
    _MOVEMENTS.add(primitive)


def _of_comparisons(equation: Any, entries: Sequence[Entry]) -> Entry | None:
    """What an equation makes of the results of comparisons; None if nothing passes through it."""
    primitive = equation.primitive
    values = [entry.value for entry in entries]
    if len(equation.outvars) != 1:
        return None
    dtype = equation.outvars[0].aval.dtype
    if primitive is lax.convert_element_type_p and jnp.issubdtype(dtype, jnp.inexact):
        (soft,) = (entry.soft for entry in entries)
        assert soft is not None
        return Entry(soft.astype(dtype), True)
    if primitive is lax.select_n_p and jnp.issubdtype(dtype, jnp.inexact):
        condition, *branches = entries
        if condition.soft is None or len(branches) != 2 or any(branch.moves for branch in branches):
            return None
        return Entry(choose(condition.soft, *values), True)
    if not has_soft(dtype):
        return None
    soft = _soft_result(equation, entries)
    if soft is None:
        return None
    (value,) = bind_equation(equation, *values)
    return Entry(value, True, soft=soft)


def _soft_result(equation: Any, entries: Sequence[Entry]) -> Array | None:
    """A boolean or integer that an operation makes of comparisons, as a number; None for other operations."""
    primitive, result = equation.primitive, equation.outvars[0].aval.dtype
    dtype = jnp.result_type(*(entry.soft for entry in entries if entry.soft is not None))
    softs = [number_of(entry, dtype) for entry in entries]
    if primitive is lax.convert_element_type_p:
        return softs[0] if result != jnp.bool_ else None
    if primitive is lax.select_n_p and len(entries) == 3:
        chosen, false, true = softs
        return chosen * true + (1 - chosen) * false
    if primitive in _MOVEMENTS:
        # Of gathers what moves is the first operand, of all others each one.
        rest = [x.value for x in entries[1:]] if primitive is lax.gather_p else softs[1:]
        (soft,) = bind_equation(equation, softs[0], *rest)
        return jnp.asarray(soft)
    booleans = all(jnp.result_type(entry.value) == jnp.bool_ for entry in entries)
    if booleans and primitive in _LOGIC:
        return _LOGIC[primitive](*softs)
    if booleans and primitive in _ALL_OR_ANY:
        return _ALL_OR_ANY[primitive](*softs, tuple(equation.params["axes"]))
    if primitive in _COUNTS and result != jnp.bool_:
        (soft,) = bind_equation(equation, *softs)
        return jnp.asarray(soft)
    return None


def has_soft(dtype: Any) -> bool:
    """Whether arrays of a dtype may carry a number beside them: booleans and integers."""
    return bool(dtype == jnp.bool_ or jnp.issubdtype(dtype, jnp.integer))


def number_of(entry: Entry, dtype: Any) -> Array:
    """A boolean or an integer as a number, with its pullback if it has one."""
    return jnp.asarray(entry.value if entry.soft is None else entry.soft, dtype)
