"""Which operations become linearised constraints, and which of them only together.

Values that are not real (complex numbers, integers, comparisons) have no copies. The operations that pass
them on to one another are one operation between real values, with all that lies between them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jaxtyping import Array

from ..dependence import dependence
from ..rules import is_loss
from ..rules.linearised import Held, Linearised, LinearisedElementwise
from .ir import Equation, Value, abstract, evaluate, read

TOGETHER = Primitive("together")
"""Operations that become one; `params` has their names."""

ELEMENTWISE = {
    "acos", "acosh", "asin", "asinh", "atan2", "atanh", "bessel_i0e", "bessel_i1e", "cosh", "digamma",
    "igamma", "igammac", "lgamma", "polygamma", "pow", "regularized_incomplete_beta", "rem", "sinh", "tan",
}  # fmt: skip


def is_real(value: Value) -> bool:
    """Whether a solver can hold copies of a value."""
    return bool(jnp.issubdtype(value.dtype, jnp.floating))


def join(equations: Sequence[Equation], varying: set[Value], ends: Iterable[Value]) -> list[Equation]:
    """The equations, with those that pass on values that are not real as one.

    **Arguments:** `varying`, the values that depend on parameters; `ends`, those read by other equations.
    """
    groups = _Groups(equations, varying)
    if not groups.found:
        return list(equations)
    read_by: dict[Value, list[int]] = {}
    for number, equation in enumerate(equations):
        for value in equation.inputs:
            read_by.setdefault(value, []).append(number)
    wanted = set(ends)
    joined: dict[int, Equation] = {}
    for members in groups.found:
        inside = set(members)
        outputs = [
            value
            for number in members
            for value in equations[number].outputs
            if value in wanted or any(reader not in inside for reader in read_by.get(value, ()))
        ]
        joined[max(members)] = _together([equations[number] for number in members], outputs)
    taken = {number for members in groups.found for number in members}
    ordered = [joined.get(n, x) for n, x in enumerate(equations) if n in joined or n not in taken]
    return _sorted(ordered)


class _Groups:
    """Numbers of the equations that have to become one, for each such group (`found`)."""

    def __init__(self, equations: Sequence[Equation], varying: set[Value]):
        self.producer = {value: n for n, equation in enumerate(equations) for value in equation.outputs}
        self.group = list(range(len(equations)))
        self.before = [
            {self.producer[value] for value in equation.inputs if value in self.producer and value in varying}
            for equation in equations
        ]
        joined = False
        for number, equation in enumerate(equations):
            for value in equation.inputs:
                if value in varying and not is_real(value) and value in self.producer:
                    self._unite(number, self.producer[value])
                    joined = True
        self.found: list[list[int]] = []
        while joined:
            joined = self._close()
        members: dict[int, list[int]] = {}
        for number in range(len(equations)):
            members.setdefault(self._root(number), []).append(number)
        self.found = [found for found in members.values() if len(found) > 1]

    def _root(self, number: int) -> int:
        while self.group[number] != number:
            number = self.group[number]
        return number

    def _unite(self, a: int, b: int) -> None:
        self.group[self._root(a)] = self._root(b)

    def _close(self) -> bool:
        """Takes in what lies between the members of a group; whether there was anything."""
        members: dict[int, list[int]] = {}
        for number in range(len(self.group)):
            members.setdefault(self._root(number), []).append(number)
        reaches: dict[int, set[int]] = {root: set() for root in members}
        after: dict[int, set[int]] = {root: set() for root in members}
        for number, producers in enumerate(self.before):
            for producer in producers:
                if (a := self._root(producer)) != (b := self._root(number)):
                    reaches[a].add(b)
                    after[b].add(a)
        for root, numbers in members.items():
            if len(numbers) > 1:
                between = _reached(root, reaches) & _reached(root, after)
                if between - {root}:
                    for other in between:
                        self._unite(other, root)
                    return True
        return False


def _reached(start: int, edges: dict[int, set[int]]) -> set[int]:
    found: set[int] = set()
    left = [start]
    while left:
        new = edges[left.pop()] - found
        found |= new
        left.extend(new)
    return found


def _sorted(equations: Sequence[Equation]) -> list[Equation]:
    """In an order in which producers come first, else as they are; losses keep their order, last."""
    made = {value for equation in equations for value in equation.outputs}
    done: list[Equation] = []
    losses = [equation for equation in equations if is_loss(equation.primitive)]
    left = [equation for equation in equations if not is_loss(equation.primitive)]
    while left:
        waiting = []
        for equation in left:
            if any(value in made for value in equation.inputs):
                waiting.append(equation)
            else:
                done.append(equation)
                made.difference_update(equation.outputs)
        assert len(waiting) < len(left)
        left = waiting
    return [*done, *losses]


def _together(members: Sequence[Equation], outputs: Sequence[Value]) -> Equation:
    inside = {value for x in members for value in x.outputs}
    given = dict.fromkeys(v for x in members for v in x.inputs if v not in inside and v.literal is None)
    inputs = tuple(given)

    def apply(*arrays: Array) -> tuple[Array, ...]:
        environment = dict(zip(inputs, arrays, strict=True))
        evaluate(members, environment)
        return tuple(jnp.asarray(read(environment, value)) for value in outputs)

    names = list(dict.fromkeys(x.primitive.name for x in members))
    loops = members[0].loops if all(x.loops == members[0].loops for x in members) else ()
    source = next((x.source for x in members if x.source), "")
    params = {"names": names, "members": tuple(members)}
    return Equation(TOGETHER, params, inputs, tuple(outputs), apply, source, loops)


def hold_inside(equation: Equation, behind: dict[Value, Value]) -> Equation:
    """The operation with `stop_gradient` of some inputs as a part of it.

    A factorisation is computed of a matrix behind it, whose derivative is taken elsewhere: the two are one
    value, not two copies. `behind` has for such an input the value itself.
    """
    if not behind:
        return equation
    named = [behind.get(value, value) for value in equation.inputs]
    inputs = tuple(dict.fromkeys(value for value in named if value.literal is None))

    def apply(*arrays: Array) -> tuple[Array, ...]:
        given = dict(zip(inputs, arrays, strict=True))
        values = [read(given, value) for value in named]
        held = (
            lax.stop_gradient(x) if old in behind else x
            for old, x in zip(equation.inputs, values, strict=True)
        )
        return equation.apply(*held)

    params = {"names": [name_of(equation)], "members": (equation,)}
    return replace(equation, primitive=TOGETHER, params=params, inputs=inputs, apply=apply)


def name_of(equation: Equation) -> str:
    """The name of an operation, or of several that are one."""
    names: list[str] = (
        equation.params["names"] if equation.primitive is TOGETHER else [equation.primitive.name]
    )
    return "+".join(names if len(names) <= 4 else [*names[:3], "..."])


def linearised(
    equation: Equation, moving: Sequence[int], outputs: Sequence[Value], refusal: str | None = None
) -> tuple[Linearised, tuple[int, ...]] | None:
    """The constraint of an operation, and the positions of its constants; None if it has no derivative.

    Several outputs are one array: flat, side by side along the last axis, after those of loops.

    **Arguments:** `moving`, the positions of what depends on parameters; `outputs`, those that are read;
    `refusal`, why there is no other constraint: one whose derivative is zero throughout has `Held` then.
    """
    inputs = equation.inputs
    values = [*(inputs[i] for i in moving), *outputs]
    if not moving or not outputs or not all(is_real(x) and x.size for x in values):
        return None
    fixed = tuple(i for i in range(len(inputs)) if i not in moving)
    order = [*moving, *fixed]
    places = [equation.outputs.index(value) for value in outputs]
    leading = len(equation.loops)

    def function(*arrays: Array) -> Array:
        given = dict(zip(order, arrays, strict=True))
        results = equation.apply(*(given[i] for i in range(len(inputs))))
        if len(places) == 1:
            return results[places[0]]
        flat = [results[place].reshape(*results[place].shape[:leading], -1) for place in places]
        return jnp.concatenate([x.astype(jnp.result_type(*flat)) for x in flat], -1)

    varies = _varies(function, [inputs[i] for i in moving], [inputs[i] for i in fixed])
    dtypes = tuple(str(inputs[i].dtype) for i in moving)
    name = name_of(equation)
    if not varies:
        if varies is None or refusal is None:
            return None
        return Held(function, name, dtypes, leading, refusal=refusal), fixed
    if equation.primitive.name in ELEMENTWISE and all(inputs[i].shape == outputs[0].shape for i in moving):

        def element(*arrays: Array) -> Array:
            given = dict(zip(order, arrays, strict=True))
            values = jnp.broadcast_arrays(*(jnp.asarray(given[i]) for i in range(len(inputs))))
            found: Array = equation.primitive.bind(*values, **equation.params)
            return found

        return LinearisedElementwise(element, name, dtypes, leading), fixed
    return Linearised(function, name, dtypes, leading), fixed


def _varies(
    function: Callable[..., Array], operands: Sequence[Value], constants: Sequence[Value]
) -> bool | None:
    """Whether the derivative is not zero throughout; None if JAX has none, forwards and in reverse."""
    moving, fixed = [abstract(x) for x in operands], [_abstract(x) for x in constants]

    def back(moving: Sequence[Array], fixed: Sequence[Array]) -> Any:
        output, pull = jax.vjp(lambda *x: function(*x, *fixed), *moving)
        return pull(jnp.ones_like(output))

    def forward(moving: Sequence[Array], tangents: Sequence[Array], fixed: Sequence[Array]) -> Any:
        return jax.jvp(lambda *x: function(*x, *fixed), tuple(moving), tuple(tangents))[1]

    try:
        jax.eval_shape(back, moving, fixed)
        closed = jax.make_jaxpr(forward)(moving, moving, fixed)
    except (NotImplementedError, TypeError, ValueError, AssertionError):
        return None
    count = len(moving)
    return any(dependence(closed, [False] * count + [True] * count + [False] * len(fixed)))


def _abstract(value: Value) -> Any:
    return value.literal if value.literal is not None else abstract(value)
