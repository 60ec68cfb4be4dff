"""How a jaxpr becomes flat equations: every call is walked through, every loop becomes its body."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal
from jax.lax import scan_p

from .._compat import (
    COMPOSED,
    called_jaxpr,
    checked_operands,
    evaluator,
    open_jaxpr,
    scan_operands,
    source_line,
)
from ..dependence import loop_dependence
from .ir import Equation, Loop, Value, abstract, value_like
from .loops import inline_scan
from .orient import orient


@dataclass
class Inliner:
    """Collects flat equations.

    - `equations`: in order; no calls and no loops that see a parameter are left.
    - `carries`: for each carry of such a loop the equation that joins its iterations. They close
      cycles, so they stand apart; `equations` has the same values by running the loop.
    - `whole_loops`: for each loop with carries that depend on a parameter an equation that computes its
      results, one iteration after the other. They stand apart, because `equations` have them, too.
    - `baked`: values of arrays that inner functions close over, with the arrays.
    - `trained`: the values that depend on a parameter.
    """

    baked: list[tuple[Value, Any]] = field(default_factory=list)
    trained: set[Value] = field(default_factory=set)
    equations: list[Equation] = field(default_factory=list)
    carries: list[Equation] = field(default_factory=list)
    whole_loops: list[Equation] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def body(self) -> "Inliner":
        """An inliner for the body of a loop of this one."""
        return Inliner(self.baked, self.trained, _numbers=self._numbers)

    def orient(self, ends: Sequence[Value]) -> None:
        """Takes products the other way round whose only use is their transpose; `ends` are read elsewhere."""
        apart = (value for x in (*self.carries, *self.whole_loops) for value in x.inputs)
        self.equations = orient(self.equations, [*ends, *apart])

    def new_loop(self, length: int) -> Loop:
        """A loop with a name of its own."""
        return Loop(f"scan_{next(self._numbers)}", length)

    def add(self, equation: Equation) -> tuple[Value, ...]:
        """Appends an equation; returns its outputs."""
        self.equations.append(equation)
        if any(value in self.trained for value in equation.inputs):
            self.trained.update(equation.outputs)
        return equation.outputs

    def walk(
        self, jaxpr: Any, constants: Sequence[Any], inputs: Sequence[Value], caller: str = ""
    ) -> list[Value]:
        """Appends the equations of a jaxpr applied to `inputs`; returns its results.

        `constants` are values, or the arrays of an inner function.
        `caller` is the line of those that have none: inside JAX's own functions.
        """
        environment: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))
        for variable, constant in zip(jaxpr.constvars, constants, strict=True):
            if not isinstance(constant, Value):
                self.baked.append((value := value_like(variable.aval), constant))
                constant = value
            environment[variable] = constant

        def look_up(atom: Any) -> Value:
            if isinstance(atom, Literal):
                aval: Any = atom.aval
                number = np.asarray(atom.val, aval.dtype)
                return Value(tuple(number.shape), number.dtype, number)
            return environment[atom]

        for equation in jaxpr.eqns:
            operands = [look_up(atom) for atom in equation.invars]
            called = called_jaxpr(equation)
            source = source_line(equation) or caller
            if called is not None:
                results = self.walk(*open_jaxpr(called), operands, source)
            elif equation.primitive is scan_p and self._is_loop(equation, operands):
                results = inline_scan(self, equation, operands)
            elif equation.primitive in COMPOSED:
                results = self.apply(COMPOSED[equation.primitive], operands, source)
            elif (kept := checked_operands(equation)) is not None:
                results = [operands[i] for i in kept]
            else:
                results = list(self.add(_flat(equation, operands, source)))
            environment.update(zip(equation.outvars, results, strict=True))
        return [look_up(atom) for atom in jaxpr.outvars]

    def _is_loop(self, equation: Any, operands: Sequence[Value]) -> bool:
        """Whether the iterations of a scan are to stand side by side.

        One that sees no parameter is a constant. One that carries what is not real, as a condition, from
        iteration to iteration is an operation as any other: solvers hold copies of real values.
        """
        depends = [x in self.trained for x in operands]
        if not any(depends):
            return False
        start, count = scan_operands(equation)
        carried = slice(start, start + count)
        moving = loop_dependence(equation, depends)[carried]
        avals = [variable.aval for variable in equation.invars[carried]]
        return all(
            jnp.issubdtype(x.dtype, jnp.floating) for x, moves in zip(avals, moving, strict=True) if moves
        )

    def apply(
        self,
        function: Callable[..., Any],
        inputs: Sequence[Value],
        source: str,
        loops: tuple[Loop, ...] = (),
    ) -> list[Value]:
        """Appends the equations of `function(*inputs)`, as if the user's line `source` had them."""
        start = len(self.equations)
        jaxpr, constants = open_jaxpr(jax.make_jaxpr(function)(*map(abstract, inputs)))
        results = self.walk(jaxpr, constants, inputs)
        self.equations[start:] = [
            replace(equation, source=source, loops=loops) for equation in self.equations[start:]
        ]
        return results


def _flat(equation: Any, operands: Sequence[Value], source: str) -> Equation:
    return Equation(
        equation.primitive,
        dict(equation.params),
        tuple(operands),
        tuple(value_like(variable.aval) for variable in equation.outvars),
        evaluator(equation),
        source,
    )
