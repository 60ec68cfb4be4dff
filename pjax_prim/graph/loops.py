"""A scan becomes its body's equations with one more leading axis: every iteration at once.

The iterations of a loop are constraints like any others, and none waits for another. What an
iteration starts from, the carry, is a movement of data: the initial value, followed by what each
iteration passes on. So a loop of any length has the graph of its body, once, with a cycle through
each carry (`ir.CARRY`). Only the forward pass is sequential (`ir.FORWARD`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from .._compat import open_jaxpr, scan_operands, source_line
from ..dependence import loop_dependence
from ..errors import MissingRuleError
from ..rules import rule_of
from .ir import (
    CARRY,
    FORWARD,
    WHOLE,
    Equation,
    Loop,
    Value,
    computing,
    evaluate,
    read,
    value_like,
)

if TYPE_CHECKING:
    from .inline import Inliner


def inline_scan(outer: Inliner, equation: Any, operands: Sequence[Value]) -> list[Value]:
    """Appends the equations of a scan that sees a parameter; returns its results.

    Each value of the body is of one of these kinds, and so are the equations:

    - the same in every iteration: it stays one value, computed outside the loop;
    - constant, but not the same: its iterations are run once, one after the other, and stacked;
    - trained: it gets a leading axis of the loop's length, and its equation becomes the one that
      `jax.vmap` makes of it.
    """
    length = equation.params["length"]
    split, carry_count = scan_operands(equation)
    inits = operands[split : split + carry_count]
    if length == 0:
        results = [value_like(variable.aval) for variable in equation.outvars]
        empty = [(y, jnp.zeros(y.shape, y.dtype)) for y in results[carry_count:]]
        outer.baked.extend(empty)
        return [*inits, *results[carry_count:]]
    jaxpr, constants = open_jaxpr(equation.params["jaxpr"])
    loop = outer.new_loop(length)
    body = outer.body()
    inputs = [value_like(variable.aval) for variable in jaxpr.invars]
    depends = loop_dependence(equation, [x in outer.trained for x in operands])
    outer.trained.update(x for x, trained in zip(inputs, depends, strict=True) if trained)
    outputs = body.walk(jaxpr, constants, inputs)
    body.orient(outputs)
    carries = [Carry(*each) for each in zip(inits, inputs[split:], outputs[:carry_count], strict=False)]
    changing = [carry for carry in carries if not carry.invariant]
    scan = _Scan(outer, body, loop, bool(equation.params["reverse"]), source_line(equation))
    scan.outside = dict(zip(inputs, operands, strict=True))
    scan.stacked = {*inputs[split + carry_count :], *(carry.into for carry in changing)}
    for carry in changing:
        del scan.outside[carry.into]
    carried = scan.emit(changing, outputs)
    finals = [carry.init if carry.invariant else scan.final(carry) for carry in carries]
    stacks = [scan.with_axis(y) for y in outputs[carry_count:]]
    if carried:
        stack_of = dict(zip(outputs[carry_count:], stacks, strict=True))
        scan.whole(carried, dict(zip(carries, finals, strict=True)), stack_of)
    return [*finals, *stacks]


@dataclass(frozen=True)
class Carry:
    """A value that goes from iteration to iteration.

    - `init`: what the first starts from.
    - `into`, `out`: what an iteration starts from, and what it passes on (values of the body).
    """

    init: Value
    into: Value
    out: Value

    @property
    def invariant(self) -> bool:
        """Whether it never changes."""
        return self.out is self.into


class _Scan:
    """The work of `inline_scan`.

    - `outside`: for values of the body those outside that stand for them.
    - `stacked`: the values of the body that differ between iterations; those outside have a
      leading axis.
    """

    def __init__(self, outer: Inliner, body: Inliner, loop: Loop, reverse: bool, source: str):
        self.outer, self.body, self.loop = outer, body, loop
        self.reverse, self.source = reverse, source
        self.outside: dict[Value, Value] = {}
        self.stacked: set[Value] = set()
        self._finals: dict[Value, Value] = {}  # of constant carries
        self._moving: list[Equation] = []  # what depends on a parameter and differs between iterations

    def emit(self, carries: Sequence[Carry], results: Sequence[Value]) -> list[Carry]:
        """Appends everything but the scan's results; returns the carries that depend on a parameter."""
        trained = self.outer.trained
        moving: list[Equation] = []
        for equation in self.body.equations:
            if any(value in self.stacked for value in equation.inputs):
                self.stacked.update(equation.outputs)
                moving.append(equation)
            else:
                self.outer.add(self._renamed(equation))
        constant = [x for x in moving if not any(y in trained for y in x.inputs)]
        self._moving = moving = [x for x in moving if any(y in trained for y in x.inputs)]
        known = [carry for carry in carries if carry.into not in trained]
        carried = [carry for carry in carries if carry.into in trained]

        readers = (x.inputs for x in (*moving, *self.body.carries, *self.body.whole_loops))
        wanted = [
            value
            for value in _unique(*readers, [carry.out for carry in carried], results)
            if value in self.stacked and value not in trained and value not in self.outside
        ]
        if wanted or known:
            stacks, finals = self._run(lax.scan_p, constant, known, wanted)
            self.outside.update(zip(wanted, stacks, strict=True))
            self._finals.update(zip((carry.into for carry in known), finals, strict=True))

        if self.loop.length == 1:
            for carry in carried:
                self.outside[carry.into] = self._add_axis(carry.init)
            carried = []
        if carried:
            inner = [y for x in moving if x.primitive is FORWARD for y in x.outputs]
            recorded = [*(carry.into for carry in carried), *inner]
            stacks, _ = self._run(FORWARD, moving, carried, recorded)
            self.outside.update(zip(recorded, stacks, strict=True))
            moving = [x for x in moving if x.primitive is not FORWARD]
        for equation in moving:
            self.outside.update(zip(equation.outputs, self._batched(equation), strict=True))
        for equation in self.body.carries:
            self.outer.carries.append(self._carry_of_inner(equation))
        self.outer.whole_loops.extend(map(self._whole_of_inner, self.body.whole_loops))
        for carry in carried:
            self.outer.carries.append(
                Equation(
                    CARRY,
                    {"axis": 0, "reverse": self.reverse},
                    (carry.init, self.with_axis(carry.out)),
                    (self.outside[carry.into],),
                    partial(_shift, self.reverse),
                    self.source,
                    (self.loop,),
                )
            )
        return carried

    def whole(
        self, carries: Sequence[Carry], finals: Mapping[Carry, Value], stacks: Mapping[Value, Value]
    ) -> None:
        """Sets apart the equation that computes the results of the loop one iteration after the other.

        **Arguments:** of the carries that depend on a parameter the `finals`; for each result of an
        iteration that is stacked the stack.
        """
        wanted = [x for x in stacks if x in self.stacked and x in self.outer.trained]
        equation = self._loop(WHOLE, self._moving, carries, wanted)
        made = [
            *(stacks[x] for x in wanted),
            *(finals[carry] if carry.out in self.stacked else None for carry in carries),
        ]
        # A result that is an input, or no result of iterations, is not made here.
        outputs = tuple(
            unread if value is None or value in equation.inputs else value
            for value, unread in zip(made, equation.outputs, strict=True)
        )
        self.outer.whole_loops.append(replace(equation, outputs=outputs))

    def _whole_of_inner(self, equation: Equation) -> Equation:
        """The equation of the results of an inner loop, for all iterations of this loop."""
        if not any(value in self.stacked for value in equation.inputs):
            return self._renamed(equation)
        outputs = tuple(self.outside.get(x) or self._stack_of(x) for x in equation.outputs)
        return replace(
            equation,
            inputs=tuple(map(self._outside, equation.inputs)),
            outputs=outputs,
            apply=self._vmapped(equation),
            loops=(self.loop, *equation.loops),
        )

    def final(self, carry: Carry) -> Value:
        """What the last iteration passes on."""
        if carry.into in self._finals:
            return self._finals[carry.into]
        if carry.out not in self.stacked:
            return self._outside(carry.out)
        last = 0 if self.reverse else self.loop.length - 1
        (final,) = self.outer.apply(
            lambda x: lax.index_in_dim(x, last, keepdims=False), [self._outside(carry.out)], self.source
        )
        return final

    def with_axis(self, value: Value) -> Value:
        """A value of the body, for all iterations."""
        outside = self._outside(value)
        return outside if value in self.stacked else self._add_axis(outside)

    def _add_axis(self, value: Value) -> Value:
        shape = (self.loop.length, *value.shape)
        (result,) = self.outer.apply(lambda x: jnp.broadcast_to(x, shape), [value], self.source)
        return result

    def _outside(self, value: Value) -> Value:
        return self.outside.get(value, value)

    def _stack_of(self, value: Value) -> Value:
        return Value((self.loop.length, *value.shape), value.dtype)

    def _renamed(self, equation: Equation) -> Equation:
        return replace(equation, inputs=tuple(map(self._outside, equation.inputs)))

    def _run(
        self,
        primitive: Any,
        equations: Sequence[Equation],
        carries: Sequence[Carry],
        wanted: Sequence[Value],
    ) -> tuple[Sequence[Value], Sequence[Value]]:
        """Appends what `_loop` gives.

        **Returns:** the `wanted` values of the body, stacked, and the final carries.
        """
        results = self.outer.add(self._loop(primitive, equations, carries, wanted))
        return results[: len(wanted)], results[len(wanted) :]

    def _loop(
        self,
        primitive: Any,
        equations: Sequence[Equation],
        carries: Sequence[Carry],
        wanted: Sequence[Value],
    ) -> Equation:
        """The equation that runs a part of the loop one iteration after the other.

        Its results are the `wanted` values of the body, stacked, and the final carries.
        """
        outs = tuple(carry.out for carry in carries)
        intos = tuple(carry.into for carry in carries)
        part = computing(equations, self.body.whole_loops, [*outs, *wanted])
        inside = {*intos, *(y for x in part for y in x.outputs)}
        given = [x for x in _unique(*(x.inputs for x in part), outs, wanted) if x not in inside]
        fixed = tuple(x for x in given if x not in self.stacked)
        sequences = tuple(x for x in given if x in self.stacked)
        first, second = len(fixed), len(fixed) + len(intos)

        def run(*arrays: Array) -> tuple[Array, ...]:
            def step(carry: Sequence[Array], slices: Sequence[Array]) -> tuple[list[Array], list[Array]]:
                given = (*fixed, *intos, *sequences)
                environment = dict(zip(given, (*arrays[:first], *carry, *slices), strict=True))
                evaluate(part, environment)
                found = [jnp.asarray(read(environment, y)) for y in (*outs, *wanted)]
                return found[: len(outs)], found[len(outs) :]

            finals, stacks = lax.scan(
                step,
                list(arrays[first:second]),
                list(arrays[second:]),
                self.loop.length,
                reverse=self.reverse,
            )
            return (*stacks, *finals)

        return Equation(
            primitive,
            {},
            (
                *map(self._outside, fixed),
                *(carry.init for carry in carries),
                *map(self._outside, sequences),
            ),
            (*map(self._stack_of, wanted), *(Value(x.shape, x.dtype) for x in intos)),
            run,
            self.source,
            (self.loop,),
        )

    def _batched(self, equation: Equation) -> Sequence[Value]:
        """Appends an equation of the body for all iterations; returns its outputs."""
        inputs = tuple(map(self._outside, equation.inputs))
        loops = (self.loop, *equation.loops)
        if equation.primitive is FORWARD or rule_of(equation.primitive) is None:
            outputs = tuple(map(self._stack_of, equation.outputs))
            return self.outer.add(
                replace(equation, inputs=inputs, outputs=outputs, apply=self._vmapped(equation), loops=loops)
            )
        try:
            return self.outer.apply(self._vmapped(equation), inputs, equation.source, loops)
        except NotImplementedError as error:
            raise MissingRuleError(
                f"{equation.source}: primitive {equation.primitive.name!r} in the body of a loop has "
                f"no batching rule, so its iterations cannot stand side by side. {error}"
            ) from error

    def _carry_of_inner(self, equation: Equation) -> Equation:
        """The equation of an inner loop's carry, for all iterations of this loop."""
        (into,) = equation.outputs
        if into not in self.stacked:
            return self._renamed(equation)
        return replace(
            equation,
            params=equation.params | {"axis": equation.params["axis"] + 1},
            inputs=tuple(map(self.with_axis, equation.inputs)),
            outputs=(self.outside[into],),
            apply=jax.vmap(equation.apply),
            loops=(self.loop, *equation.loops),
        )

    def _vmapped(self, equation: Equation) -> Callable[..., tuple[Array, ...]]:
        axes = tuple(0 if value in self.stacked else None for value in equation.inputs)
        return jax.vmap(equation.apply, axes)


def _shift(reverse: bool, init: Array, out: Array) -> tuple[Array]:
    """What each iteration starts from.

    Padding, of which one side is negative: where iterations are divided over devices only those
    at boundaries move, to the next device. A concatenation would be moved whole.
    """
    sides, first = ((-1, 1), len(out) - 1) if reverse else ((1, -1), 0)
    shifted = lax.pad(out, jnp.zeros((), out.dtype), [(*sides, 0), *[(0, 0, 0)] * (out.ndim - 1)])
    starts = lax.broadcasted_iota(jnp.int32, out.shape, 0) == first
    # Stored: else each of its readers computes it anew, which on CPUs takes longer than to read it.
    return (lax.optimization_barrier(jnp.where(starts, init[None], shifted)),)


def _unique(*groups: Iterable[Value]) -> list[Value]:
    """The values of some groups, without literals."""
    return list(dict.fromkeys(x for group in groups for x in group if x.literal is None))
