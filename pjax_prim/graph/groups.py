"""Groups of equations with one input and one output that patterns are found in."""

from collections import Counter
from dataclasses import dataclass

from .ir import Equation, Value, leading_to
from .terms import Term, Terms
from .trace import FlatFunction


@dataclass(frozen=True)
class Group:
    """`equations` compute `output` from `root`, in order; what they make is used nowhere else."""

    root: Value
    output: Value
    equations: tuple[Equation, ...]


class Groups:
    """The terms of a function, and the equations that make them."""

    def __init__(self, function: FlatFunction, varying: set[Value]):
        self.varying = varying
        self.terms = Terms(function.equations)
        self._made_by = {value: equation for equation in function.equations for value in equation.outputs}
        self._order = {equation: number for number, equation in enumerate(function.equations)}
        ends = (*function.outputs, *(value for x in function.carries for value in x.inputs))
        readers = (*leading_to(function.equations, ends), *function.carries)
        self._uses = Counter(value for equation in readers for value in equation.inputs)
        self._uses.update(function.outputs)

    def between(self, root: Term, last: Equation) -> Group | None:
        """The equations from a value of the term `root` to `last`.

        None if there are several such values, or what is made between is used elsewhere.
        """
        members: dict[Equation, None] = {}
        roots: dict[Value, None] = {}
        left = list(last.inputs)
        members[last] = None
        while left or len(roots) > 1:
            if not left:  # of a value and its copies, the value
                value = max(roots, key=self._place)
                del roots[value]
            else:
                value = left.pop()
                if value not in self.varying:
                    continue
                if self.terms.of(value) is root:
                    roots[value] = None
                    continue
            equation = self._made_by.get(value)
            if equation is None:
                return None
            if equation not in members:
                members[equation] = None
                left.extend(equation.inputs)
        if not roots:
            return None
        read = Counter(value for equation in members for value in equation.inputs)
        inside = [value for equation in members if equation is not last for value in equation.outputs]
        if any(read[value] != self._uses[value] for value in inside):
            return None
        (found,) = roots
        equations = sorted(members, key=self._order.__getitem__)
        return Group(found, last.outputs[0], tuple(equations))

    def _place(self, value: Value) -> int:
        equation = self._made_by.get(value)
        return -1 if equation is None else self._order[equation]
