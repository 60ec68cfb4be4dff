"""How a program becomes flat equations: every call and every loop is walked through."""

from dataclasses import dataclass
from typing import Any

from ..errors import GraphError
from .inline import Inliner
from .ir import Equation, Value, value_like
from .program import Program


@dataclass(frozen=True)
class FlatFunction:
    """A traced function of parameter arrays and data arrays.

    - `parameters`, `data`: its inputs.
    - `captured`: values of the arrays that the function closes over.
    - `baked`: values of arrays that jitted functions inside close over, with the arrays.
    - `equations`: in order; no calls are left, and no loops that see a parameter.
    - `carries`: what joins the iterations of those (`ir.CARRY`). `equations` compute the same
      values one iteration after the other (`ir.FORWARD`).
    - `whole_loops`: for each loop with such carries an equation that computes what `equations` have for its
      results, one iteration after the other, and no other value.
    - `outputs`: its results.
    - `program`: where it comes from.
    """

    parameters: tuple[Value, ...]
    data: tuple[Value, ...]
    captured: tuple[Value, ...]
    baked: tuple[tuple[Value, Any], ...]
    equations: tuple[Equation, ...]
    outputs: tuple[Value, ...]
    carries: tuple[Equation, ...] = ()
    whole_loops: tuple[Equation, ...] = ()
    program: Program | None = None


def flatten(program: Program) -> FlatFunction:
    """Inlines the calls of a program.

    `jit`, `custom_jvp`, `custom_vjp`, `remat` and `custom_vmap` are walked through; a `scan` becomes
    its body's equations with one more axis (`loops.py`).

    **Errors:** `GraphError` if the function has side effects.
    """
    jaxpr = program.jaxpr
    if jaxpr.effects:
        raise GraphError(
            f"the function has side effects ({', '.join(map(str, jaxpr.effects))}); "
            "a constraint graph needs a pure function: remove callbacks and debug prints"
        )
    captured, inputs = (
        [value_like(variable.aval) for variable in variables] for variables in (jaxpr.constvars, jaxpr.invars)
    )
    split = program.parameters
    inliner = Inliner(trained=set(inputs[:split]))
    outputs = inliner.walk(jaxpr, captured, inputs)
    inliner.orient(outputs)
    return FlatFunction(
        tuple(inputs[:split]),
        tuple(inputs[split:]),
        tuple(captured),
        tuple(inliner.baked),
        tuple(inliner.equations),
        tuple(outputs),
        tuple(inliner.carries),
        tuple(inliner.whole_loops),
        program,
    )
