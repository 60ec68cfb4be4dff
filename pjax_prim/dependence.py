"""Which values of a traced program depend on which inputs."""

from collections.abc import Sequence
from typing import Any

from jax.extend.core import Literal
from jax.lax import scan_p

from ._compat import called_jaxpr, open_jaxpr, scan_operands


def dependence(closed: Any, depends: Sequence[bool]) -> list[bool]:
    """Which results of a jaxpr depend on some of its inputs: those for which `depends` is true."""
    jaxpr, _ = open_jaxpr(closed)
    dependent = {x for x, known in zip(jaxpr.invars, depends, strict=True) if known}

    def of(atoms: Sequence[Any]) -> list[bool]:
        return [not isinstance(x, Literal) and x in dependent for x in atoms]

    for equation in jaxpr.eqns:
        flags = of(equation.invars)
        results = [any(flags)] * len(equation.outvars)
        called = called_jaxpr(equation)
        if any(flags) and called is not None:
            results = dependence(called, flags)
        elif any(flags) and equation.primitive is scan_p:
            start, count = scan_operands(equation)
            inner = dependence(equation.params["jaxpr"], loop_dependence(equation, flags))
            results = inner if equation.params["length"] else [*flags[start : start + count], *inner[count:]]
        dependent.update(x for x, known in zip(equation.outvars, results, strict=True) if known)
    return of(jaxpr.outvars)


def loop_dependence(equation: Any, depends: Sequence[bool]) -> list[bool]:
    """Which inputs of a scan's body depend on what some operands of the scan depend on."""
    start, count = scan_operands(equation)
    depends = list(depends)
    carried = slice(start, start + count)
    while True:
        after = dependence(equation.params["jaxpr"], depends)[:count]
        joined = [a or b for a, b in zip(depends[carried], after, strict=True)]
        if joined == depends[carried]:
            return depends
        depends[carried] = joined
