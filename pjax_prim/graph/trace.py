"""From a function to flat equations: trace, then walk through every call."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

from .._compat import called_jaxpr, evaluator, open_jaxpr, source_line
from ..errors import GraphError
from .ir import Equation, Value, value_like


@dataclass(frozen=True)
class FlatFunction:
    """A traced function of parameter arrays and data arrays.

    - `parameters`, `data`: its inputs.
    - `captured`: values of arrays that the function closes over, with the arrays.
    - `equations`: in order; no calls are left.
    - `outputs`: its results.
    """

    parameters: tuple[Value, ...]
    data: tuple[Value, ...]
    captured: tuple[tuple[Value, Any], ...]
    equations: tuple[Equation, ...]
    outputs: tuple[Value, ...]


def flatten(
    function: Callable[..., Sequence[Any]], parameters: Sequence[Any], data: Sequence[Any]
) -> FlatFunction:
    """Traces `function(parameters, data) -> list of arrays` and inlines its calls.

    `jit`, `custom_jvp`, `custom_vjp`, `remat` and `custom_vmap` are walked through.

    **Errors:** `GraphError` if the function has side effects.
    """
    closed = jax.make_jaxpr(function)(list(parameters), list(data))
    jaxpr, constants = open_jaxpr(closed)
    if jaxpr.effects:
        raise GraphError(
            f"the function has side effects ({', '.join(map(str, jaxpr.effects))}); "
            "a constraint graph needs a pure function: remove callbacks and debug prints"
        )
    equations: list[Equation] = []
    captured: list[tuple[Value, Any]] = []

    def walk(
        jaxpr: Any, constants: Sequence[Any], inputs: Sequence[Value], caller: str = ""
    ) -> list[Value]:
        environment: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))
        for variable, constant in zip(jaxpr.constvars, constants, strict=True):
            environment[variable] = value = value_like(variable.aval)
            captured.append((value, constant))

        def look_up(atom: Any) -> Value:
            if isinstance(atom, Literal):
                aval: Any = atom.aval
                number = np.asarray(atom.val, aval.dtype)
                return Value(tuple(number.shape), number.dtype, number)
            return environment[atom]

        for equation in jaxpr.eqns:
            operands = [look_up(atom) for atom in equation.invars]
            called = called_jaxpr(equation)
            source = source_line(equation) or caller  # inside JAX's own functions there is none
            if called is None:
                results = [value_like(variable.aval) for variable in equation.outvars]
                equations.append(
                    Equation(
                        equation.primitive,
                        dict(equation.params),
                        tuple(operands),
                        tuple(results),
                        evaluator(equation),
                        source,
                    )
                )
            else:
                inner, inner_constants = open_jaxpr(called)
                results = walk(inner, inner_constants, operands, source)
            environment.update(zip(equation.outvars, results, strict=True))
        return [look_up(atom) for atom in jaxpr.outvars]

    inputs = [value_like(variable.aval) for variable in jaxpr.invars]
    outputs = walk(jaxpr, constants, inputs)
    split = len(parameters)
    return FlatFunction(
        tuple(inputs[:split]),
        tuple(inputs[split:]),
        tuple(captured),
        tuple(equations),
        tuple(outputs),
    )
