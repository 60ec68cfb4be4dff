"""Which values of a traced program depend on which inputs."""

from collections.abc import Sequence
from typing import Any

from jax.lax import scan_p

from ._compat import called_jaxpr, scan_operands
from .walking import walk


def dependence(closed: Any, depends: Sequence[bool]) -> list[bool]:
    """Which results of a jaxpr depend on some of its inputs: those for which `depends` is true."""

    def run(equation: Any, flags: list[bool]) -> list[bool]:
        called = called_jaxpr(equation)
        if any(flags) and called is not None:
            return dependence(called, flags)
        if any(flags) and equation.primitive is scan_p:
            start, count = scan_operands(equation)
            inner = dependence(equation.params["jaxpr"], loop_dependence(equation, flags))
            return inner if equation.params["length"] else [*flags[start : start + count], *inner[count:]]
        return [any(flags)] * len(equation.outvars)

    return walk(closed, depends, lambda constant: False, run)


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
