"""The user's own program, with the pullbacks of the table where it has derivatives.

`interpret` binds every equation of a jaxpr again. Operations without a pullback, and those that see no
parameter, are bound as they are. `jax.vjp` of the result then goes back through the pullbacks. Loops,
branches, checkpoints and mapped functions stay what they are and are entered (`calls.py`).

A comparison of numbers has no cotangent. Where its result becomes a number again, a displacement is to reach
what was compared: beside its value it carries a number, 0 or 1, that has a pullback (`Entry.soft`).
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal
from jaxtyping import Array

from .._compat import EXTRA_MOVEMENTS, IDENTITIES, bind_equation, open_jaxpr
from .products import DAMPED, Product
from .projections import Finite, constraint_of, projecting
from .registry import bind_with_pullback, is_differentiable, pullback_of
from .steps import choose, heaviside


class Entry(NamedTuple):
    """A value of the program.

    - `moves`: whether it depends on a parameter.
    - `weighs`: whether it is a parameter, or made of parameters by moving data.
    - `soft`: of a comparison its result as a number that has a pullback.
    """

    value: Any
    moves: bool = False
    weighs: bool = False
    soft: Array | None = None


@dataclass(frozen=True)
class Settings:
    """What kind of pullbacks an interpretation takes.

    - `weight`: see `pjp.displacement`.
    - `finite`: None takes those to first order.
    """

    weight: Any
    finite: Finite | None = None


Call = Callable[[Settings, Any, Sequence[Entry]], list[Entry]]

CALLS: dict[Any, Call] = {}
"""How each primitive that calls a program is interpreted; `calls.py` fills it."""


def interpret(settings: Settings, closed: Any, arguments: Sequence[Entry]) -> list[Entry]:
    """Evaluates a jaxpr with pullbacks.

    **Arguments:** `closed`, with its constants; `arguments`, one for each of its inputs.
    """
    jaxpr, constants = open_jaxpr(closed)
    environment: dict[Any, Entry] = dict(zip(jaxpr.constvars, map(Entry, constants), strict=True))
    environment.update(zip(jaxpr.invars, arguments, strict=True))

    def read(atom: Any) -> Entry:
        return Entry(atom.val) if isinstance(atom, Literal) else environment[atom]

    for equation in jaxpr.eqns:
        entries = [read(atom) for atom in equation.invars]
        if not any(entry.moves for entry in entries):
            results = list(map(Entry, _constant(equation, [x.value for x in entries])))
        elif equation.primitive in CALLS:
            results = CALLS[equation.primitive](settings, equation, entries)
        else:
            results = _operation(settings, equation, entries)
        environment.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


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
    if any(entry.soft is not None for entry in entries):
        found = _of_comparisons(equation, entries)
        if found is not None:
            return [found]
    if primitive in _DIFFERENCES and all(is_differentiable(x) for x in values):
        (value,) = bind_equation(equation, *values)
        return [Entry(value, True, soft=heaviside(_DIFFERENCES[primitive](*values), value))]

    def bind(*operands: Any) -> tuple[Any, ...]:
        return bind_equation(equation, *operands)

    pullback, weighs = pullback_of(primitive), [entry.weighs for entry in entries]
    if settings.finite is not None:
        rule = constraint_of(equation, moves)
        if rule is not None:
            pullback = projecting(rule, settings.finite)
    if pullback is not None and all(is_differentiable(x.aval) for x in equation.outvars):
        results = bind_with_pullback(
            bind, values, dict(equation.params), moves, settings.weight, pullback, primitive.name
        )
        return [Entry(value, True) for value in results]
    results = bind(*values)
    if primitive in DAMPED and any(weighs):
        product = Product(values, equation.params, moves, weighs, settings.weight)
        results = (DAMPED[primitive](results[0], product),)
    weigh = primitive in _MOVEMENTS and all(w or not m for w, m in zip(weighs, moves, strict=True))
    return [Entry(value, True, weigh) for value in results]


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
}

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
    if primitive is lax.convert_element_type_p:
        (soft,) = (entry.soft for entry in entries)
        dtype = equation.params["new_dtype"]
        if jnp.issubdtype(dtype, jnp.inexact):
            assert soft is not None
            return Entry(soft.astype(dtype), True)
        return None
    if primitive is lax.select_n_p:
        condition, *branches = entries
        if condition.soft is None or len(branches) != 2 or any(branch.moves for branch in branches):
            return None
        if not is_differentiable(branches[0].value):
            return None
        return Entry(choose(condition.soft, *values), True)
    boolean = equation.outvars[0].aval.dtype == jnp.bool_ and len(equation.outvars) == 1
    if boolean and (primitive in _LOGIC or primitive in _MOVEMENTS):
        dtype = jnp.result_type(*(entry.soft for entry in entries if entry.soft is not None))
        softs = [_number_of(entry, dtype) for entry in entries]
        (value,) = bind_equation(equation, *values)
        if primitive in _LOGIC:
            return Entry(value, True, soft=_LOGIC[primitive](*softs))
        (soft,) = bind_equation(equation, *softs)
        return Entry(value, True, soft=soft)
    return None


def _number_of(entry: Entry, dtype: Any) -> Any:
    """The result of a comparison, or another boolean, as a number; others, as indices, as they are."""
    if entry.soft is not None:
        return entry.soft.astype(dtype)
    return jnp.asarray(entry.value, dtype) if jnp.result_type(entry.value) == jnp.bool_ else entry.value
