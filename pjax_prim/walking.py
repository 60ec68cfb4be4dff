"""A program walked equation by equation, with something else in the place of its arrays."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from jax.extend.core import Literal

from ._compat import open_jaxpr

Thing = TypeVar("Thing")


def walk(
    closed: Any,
    inputs: Iterable[Thing],
    constant: Callable[[Any], Thing],
    run: Callable[[Any, list[Thing]], Iterable[Thing]],
) -> list[Thing]:
    """Gives what stands for the results of a jaxpr, where `inputs` stand for its inputs.

    **Arguments:**

    - `closed`: the jaxpr, with its constants.
    - `constant(array)`: what stands for a constant or a literal.
    - `run(equation, operands)`: what stands for the results of an equation, in their order.
    """
    jaxpr, constants = open_jaxpr(closed)
    known: dict[Any, Thing] = dict(zip(jaxpr.constvars, map(constant, constants), strict=True))
    known.update(zip(jaxpr.invars, inputs, strict=True))

    def read(atoms: Sequence[Any]) -> list[Thing]:
        return [constant(atom.val) if isinstance(atom, Literal) else known[atom] for atom in atoms]

    for equation in jaxpr.eqns:
        known.update(zip(equation.outvars, run(equation, read(equation.invars)), strict=True))
    return read(jaxpr.outvars)
