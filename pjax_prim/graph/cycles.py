"""A carry that goes round a loop through movements of data alone, as in a shift register.

Such a cycle has no constraint that could hold its copies, so it gets one: an identity.
"""

from dataclasses import replace

from ..rules.elementwise import Identity
from .draft import Draft, DraftNode
from .ir import CARRY, Value


def cut_cycles(draft: Draft) -> None:
    """Inserts the identities."""
    for equation, _ in list(draft.moved_by.values()):
        if equation.primitive is CARRY and _comes_from(draft, equation.inputs[-1], equation.outputs[0]):
            _insert(draft, equation.inputs[-1])


def _comes_from(draft: Draft, value: Value, source: Value) -> bool:
    """Whether movements lead from `source` to `value`."""
    seen, left = {value}, [value]
    while left and source not in seen:
        if (moved := draft.moved_by.get(left.pop())) is not None:
            new = [x for x in moved[0].inputs if x not in seen]
            seen.update(new)
            left.extend(new)
    return source in seen


def _insert(draft: Draft, value: Value) -> None:
    """An identity that produces `value`, of what movements made of it."""
    equation, movement = draft.moved_by.pop(value)
    moved = Value(value.shape, value.dtype)
    outputs = tuple(moved if x is value else x for x in equation.outputs)
    draft.move(replace(equation, outputs=outputs), movement)
    draft.nodes.insert(0, DraftNode(Identity(), (moved,), (), value, equation.source, equation.loops))
