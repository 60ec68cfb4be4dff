"""From a function to flat equations: trace, then walk through every call and every loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from .._compat import open_jaxpr
from ..errors import GraphError
from .inline import Inliner
from .ir import Equation, Value, value_like

_NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


@dataclass(frozen=True)
class FlatFunction:
    """A traced function of parameter arrays and data arrays.

    - `parameters`, `data`: its inputs.
    - `captured`: values of arrays that the function closes over, with the arrays.
    - `equations`: in order; no calls are left, and no loops that see a parameter.
    - `carries`: what joins the iterations of those (`ir.CARRY`). `equations` compute the same
      values one iteration after the other (`ir.FORWARD`).
    - `outputs`: its results.
    - `program`: the jaxpr of `parameters`, then `data`, whose constants are the first of `captured`.
    """

    parameters: tuple[Value, ...]
    data: tuple[Value, ...]
    captured: tuple[tuple[Value, Any], ...]
    equations: tuple[Equation, ...]
    outputs: tuple[Value, ...]
    carries: tuple[Equation, ...] = ()
    program: Any = None


def trace(function: Callable[..., Sequence[Any]], *arguments: Any) -> Any:
    """`jax.make_jaxpr(function)(*arguments)`.

    **Errors:** `GraphError` if the function needs the values of its arguments.
    """
    try:
        return jax.make_jaxpr(function)(*arguments)
    except _NEEDS_VALUES as error:
        raise GraphError(
            "fn: a shape, an index into Python, or a branch needs the value of a traced array, which is "
            "known only when the program runs: use jnp.where, masks and fixed shapes, or compute it from "
            f"Python numbers ({str(error).splitlines()[0]})"
        ) from error


def flatten(
    function: Callable[..., Sequence[Any]],
    parameters: Sequence[Any],
    data: Sequence[Any],
) -> FlatFunction:
    """Traces `function(parameters, data) -> list of arrays` and inlines its calls.

    `jit`, `custom_jvp`, `custom_vjp`, `remat` and `custom_vmap` are walked through; a `scan` becomes
    its body's equations with one more axis (`loops.py`).

    **Errors:** `GraphError` if the function has side effects, or needs the values of its arguments.
    """
    closed = trace(function, list(parameters), list(data))
    jaxpr, constants = open_jaxpr(closed)
    if jaxpr.effects:
        raise GraphError(
            f"the function has side effects ({', '.join(map(str, jaxpr.effects))}); "
            "a constraint graph needs a pure function: remove callbacks and debug prints"
        )
    inputs = [value_like(variable.aval) for variable in jaxpr.invars]
    split = len(parameters)
    inliner = Inliner(trained=set(inputs[:split]))
    outputs = inliner.walk(jaxpr, constants, inputs)
    return FlatFunction(
        tuple(inputs[:split]),
        tuple(inputs[split:]),
        tuple(inliner.captured),
        tuple(inliner.equations),
        tuple(outputs),
        tuple(inliner.carries),
        jaxpr,
    )
