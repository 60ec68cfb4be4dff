"""Groups of equations with one input and one output."""

from collections import Counter
from collections.abc import Callable

import numpy as np
from jax import lax

from .ir import Equation, Value
from .trace import FlatFunction

ELEMENTWISE = {
    lax.abs_p, lax.add_p, lax.cbrt_p, lax.clamp_p, lax.convert_element_type_p, lax.copy_p, lax.cos_p,
    lax.div_p, lax.eq_p, lax.erf_inv_p, lax.erf_p, lax.erfc_p, lax.exp2_p, lax.exp_p, lax.expm1_p,
    lax.ge_p, lax.gt_p, lax.integer_pow_p, lax.le_p, lax.log1p_p, lax.log_p, lax.logistic_p, lax.lt_p,
    lax.max_p, lax.min_p, lax.mul_p, lax.ne_p, lax.neg_p, lax.pow_p, lax.rsqrt_p, lax.select_n_p,
    lax.sign_p, lax.sin_p, lax.sqrt_p, lax.square_p, lax.sub_p, lax.tanh_p,
}  # fmt: skip
_LONGEST = 24
"""Equations of a group."""


class Groups:
    """The groups of a function that consist of equations which `accepts(equation, varying)`."""

    def __init__(
        self,
        function: FlatFunction,
        varying: set[Value],
        accepts: Callable[[Equation, set[Value]], bool],
    ):
        self.varying, self._accepts = varying, accepts
        self.made_by = {value: equation for equation in function.equations for value in equation.outputs}
        self._order = {equation: number for number, equation in enumerate(function.equations)}
        readers = (*function.equations, *function.carries)
        self._uses = Counter(value for equation in readers for value in equation.inputs)
        self._uses.update(function.outputs)

    def ending_at(self, last: Equation) -> list[tuple[Value, list[Equation]]]:
        """(root, equations from it to `last`), the longest first, of at least two equations.

        Values inside are used nowhere else.
        """
        members = [last]
        read = Counter(value for value in last.inputs)
        frontier = {value for value in last.inputs if value in self.varying}
        found = []
        while len(members) < _LONGEST:
            inner = [
                v for v in frontier if v in self.made_by and self._accepts(self.made_by[v], self.varying)
            ]
            if len(frontier) == 1 and len(members) > 1:
                inside = [x.outputs[0] for x in members if x is not last]
                if all(read[value] == self._uses[value] for value in inside):
                    found.append((next(iter(frontier)), members[::-1]))
            if not inner:
                break
            value = max(inner, key=lambda v: self._order[self.made_by[v]])
            members = [*members, self.made_by[value]]
            read.update(self.made_by[value].inputs)
            frontier = (frontier - {value}) | {v for v in self.made_by[value].inputs if v in self.varying}
        return found[::-1]

    def closed(self, root: Value, members: list[Equation]) -> list[Equation] | None:
        """The members with the equations of the numbers that they read, in order; None if they read more."""
        steps: list[Equation] = []
        seen: set[Value] = {root}

        def visit(value: Value) -> bool:
            """Adds the equations of a number that depends on nothing."""
            if value in seen or value.literal is not None:
                return value in seen or np.size(value.literal) == 1
            equation = self.made_by.get(value)
            uniform = equation is not None and (
                equation.primitive in ELEMENTWISE or equation.primitive is lax.broadcast_in_dim_p
            )
            if equation is None or not uniform or not all(visit(x) for x in equation.inputs):
                return False
            seen.add(value)
            steps.append(equation)
            return True

        for equation in members:
            if not all(visit(value) for value in equation.inputs):
                return None
            steps.append(equation)
            seen.add(equation.outputs[0])
        return steps
