"""From a function and example arguments to its constraint graph."""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import UnusedParameterWarning
from .draft import make_draft
from .fuse import fuse
from .graph import ConstraintGraph, Node
from .ir import Value
from .operand import make_operand
from .orient import orient
from .trace import flatten


def build_graph(
    function: Callable[..., Sequence[Any]],
    parameters: Sequence[Any],
    data: Sequence[Any],
    names: Sequence[str],
) -> ConstraintGraph:
    """Traces `function(parameters, data) -> list of arrays` into a constraint graph.

    **Arguments:**

    - `parameters`, `data`: arrays or abstract arrays; only shapes and dtypes matter.
    - `names`: of the parameters, for printing and messages.

    **Errors:** `GraphError` and `MissingRuleError`, with the user's source line. A parameter that
    reaches no loss is an `UnusedParameterWarning` and stays as it is.
    """
    flat = flatten(function, parameters, data)
    draft = make_draft(flat)
    orient(draft)
    fuse(draft)
    used: set[Value] = set()
    for node in draft.nodes:
        for value in node.operands:
            used.update(make_operand(value, _everything(draft, flat), draft.moved_by).inputs)
    nodes: list[Node] = []
    producer_of: dict[Value, int] = {}
    indices: list[int | None] = []
    for value, name in zip(flat.parameters, names, strict=True):
        indices.append(len(nodes) if value in used else None)
        if value in used:
            producer_of[value] = len(nodes)
            nodes.append(Node(name, None, output=value))
    unused = [name for name, index in zip(names, indices, strict=True) if index is None]
    if unused:
        warnings.warn(
            f"params: {', '.join(unused)} reach(es) no loss and will not change",
            UnusedParameterWarning,
            stacklevel=3,
        )
    numbers: Counter[str] = Counter()
    for draft_node in draft.nodes:
        constraint = draft_node.constraint
        operands = tuple(
            make_operand(value, producer_of, draft.moved_by) for value in draft_node.operands
        )
        name = f"{constraint.kind}_{numbers[constraint.kind]}"
        numbers[constraint.kind] += 1
        output = None if constraint.is_loss else draft_node.output
        if output is not None:
            producer_of[output] = len(nodes)
        nodes.append(
            Node(name, constraint, operands, draft_node.constants, output, draft_node.source)
        )
    return ConstraintGraph(
        tuple(nodes), tuple(indices), flat, tuple(draft.constant_equations)
    )


def _everything(draft: Any, flat: Any) -> dict[Value, int]:
    values = (*flat.parameters, *(node.output for node in draft.nodes))
    return dict.fromkeys(values, 0)
