"""A product whose only use is its transpose is taken the other way round.

`jax.vmap` of a matrix-vector product makes one: batch axes come last and are then moved to the
front; a loop around it makes two in a row. Without it no array has to be transposed on the way to
the next constraint and back.
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
        if not isinstance(node.constraint, Linear):
            continue
        output, passed = node.output, []
        permutation = tuple(range(len(output.shape)))
        while uses[output] == 1 and output in transposes:
            equation = transposes[output]
            permutation = tuple(permutation[i] for i in equation.params["permutation"])
            (output,) = equation.outputs
            passed.append(output)
            if permutation == node.constraint.transposition:
                draft.nodes[index] = replace(
                    node,
                    constraint=node.constraint.exchanged(),
                    operands=node.operands[::-1],
                    output=output,
                )
                for value in passed:
                    del draft.moved_by[value]
                break
