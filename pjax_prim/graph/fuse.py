"""Chains of additions become one constraint, together with the relu they end in.

`plan_fusion` only analyses and returns one frozen step; `apply_fusion` carries it out, all but the removal
of what disappeared, which `fuse` leaves to the end.
"""

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, replace

from ..rules.elementwise import SignedSum, Sum
from .draft import Draft
from .ir import Equation, Value


@dataclass(frozen=True)
class Fusion:
    """`inner` disappears into `root`: its operands take the place of operand `position`.

    `path` holds the movements between the two, last first; each moves whole arrays one to one.
    """

    root: int
    position: int
    inner: int
    path: tuple[Equation, ...]


def fuse(draft: Draft) -> None:
    """Fuses until nothing is left to fuse.

    Once through the nodes is enough: a fusion changes no use of what other nodes read.
    """
    sums = {node.output: index for index, node in enumerate(draft.nodes) if isinstance(node.constraint, Sum)}
    uses = draft.count_uses()
    gone: set[int] = set()
    for root in range(len(draft.nodes)):
        while root not in gone and (fusion := plan_fusion(draft, root, sums, uses)) is not None:
            apply_fusion(draft, fusion, uses)
            gone.add(fusion.inner)
            del sums[draft.nodes[fusion.inner].output]
    draft.nodes[:] = [node for index, node in enumerate(draft.nodes) if index not in gone]


def plan_fusion(
    draft: Draft, root: int, sums: Mapping[Value, int], uses: Mapping[Value, int]
) -> Fusion | None:
    """The next sum that can be fused into a node, or None.

    A sum is fused only if its value is used nowhere else, because it then has no copies.

    **Arguments:** `sums`, the nodes that are sums by their outputs; `uses`, how often each value is read.
    """
    node = draft.nodes[root]
    if not isinstance(node.constraint, SignedSum):
        return None
    for position, value in enumerate(node.operands):
        path = []
        while uses[value] == 1 and value in draft.moved_by:
            equation, movement = draft.moved_by[value]
            if movement.kind != "bijective" or len(equation.inputs) != 1:
                break
            path.append(equation)
            value = equation.inputs[0]
        if uses[value] == 1 and value in sums:
            return Fusion(root, position, sums[value], tuple(path))
    return None


def apply_fusion(draft: Draft, fusion: Fusion, uses: MutableMapping[Value, int]) -> None:
    """Rewrites the root's node, which then reads each of its operands as often as the two did."""
    root, inner = draft.nodes[fusion.root], draft.nodes[fusion.inner]
    outer, added = root.constraint, inner.constraint
    assert isinstance(outer, SignedSum) and isinstance(added, Sum)
    sign = outer.signs[fusion.position]
    operands = [_moved(draft, value, fusion.path) for value in inner.operands]
    if fusion.path:
        uses.update(dict.fromkeys(operands, 1))
    constants = [_moved(draft, value, fusion.path) for value in inner.constants]
    before, after = slice(None, fusion.position), slice(fusion.position + 1, None)
    draft.nodes[fusion.root] = replace(
        root,
        constraint=replace(
            outer,
            signs=(
                *outer.signs[before],
                *(sign * other for other in added.signs),
                *outer.signs[after],
            ),
            shifts=outer.shifts + tuple(sign * other for other in added.shifts),
        ),
        operands=(*root.operands[before], *operands, *root.operands[after]),
        constants=(*root.constants, *constants),
    )


def _moved(draft: Draft, value: Value, path: tuple[Equation, ...]) -> Value:
    """`value` along `path`, which was made for another value of the same shape."""
    for equation in reversed(path):
        _, movement = draft.moved_by[equation.outputs[0]]
        apply = equation.apply
        value = draft.derive(
            value,
            equation.primitive,
            equation.params,
            lambda x, apply=apply: apply(x)[0],
            equation.source,
            movement,
            equation.outputs[0].shape,
        )
    return value
