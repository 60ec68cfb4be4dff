"""A product whose only use is its transpose is taken the other way round.

`jax.vmap` of a matrix-vector product makes one: batch axes come last and are then moved to the
front. Without it no array has to be transposed on the way to the next constraint and back.
"""

from dataclasses import replace

from jax import lax

from ..rules.linear import Linear
from .draft import Draft


def orient(draft: Draft) -> None:
    """Exchanges the operands of such products."""
    uses = draft.count_uses()
    transposes = {
        equation.inputs[0]: equation
        for equation, _ in draft.moved_by.values()
        if equation.primitive is lax.transpose_p
    }
    for index, node in enumerate(draft.nodes):
        equation = transposes.get(node.output)
        if equation is None or not isinstance(node.constraint, Linear) or uses[node.output] != 1:
            continue
        if tuple(equation.params["permutation"]) == node.constraint.transposition:
            (output,) = equation.outputs
            draft.nodes[index] = replace(
                node,
                constraint=node.constraint.exchanged(),
                operands=node.operands[::-1],
                output=output,
            )
            del draft.moved_by[output]
