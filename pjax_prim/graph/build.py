"""From a function and example arguments to its constraint graph."""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import GraphError, UnusedParameterWarning
from .cycles import cut_cycles
from .draft import make_draft
from .fuse import fuse
from .graph import ConstraintGraph, Node, insert_identities
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
    cut_cycles(draft)
    outputs = [node.output for node in draft.nodes if not node.constraint.is_loss]
    everything = dict.fromkeys((*flat.parameters, *outputs), 0)
    used: set[Value] = set()
    moved: set[Value] = set()
    for node in draft.nodes:
        for value in node.operands:
            operand = make_operand(value, everything, draft.moved_by)
            used.update(operand.inputs)
            moved.update(
                x for x, n in zip(operand.inputs, operand.counts, strict=True) if n is None or np.any(n)
            )
    if moved.isdisjoint(flat.parameters):
        raise GraphError(
            "fn: every parameter is behind jax.lax.stop_gradient or reaches no loss: nothing is trained"
        )
    nodes = [
        Node(name, None, output=value)
        for value, name in zip(flat.parameters, names, strict=True)
        if value in used
    ]
    unused = [name for value, name in zip(flat.parameters, names, strict=True) if value not in used]
    if unused:
        warnings.warn(
            f"params: {', '.join(unused)} reach(es) no loss and will not change",
            UnusedParameterWarning,
            stacklevel=3,
        )
    produced = [*(node.output for node in nodes), *(node.output for node in draft.nodes)]
    producer_of = {
        value: index for index, value in enumerate(produced) if value is not None and value in everything
    }
    numbers: Counter[str] = Counter()
    for draft_node in draft.nodes:
        constraint = draft_node.constraint
        name = f"{constraint.kind}_{numbers[constraint.kind]}"
        numbers[constraint.kind] += 1
        nodes.append(
            Node(
                name,
                constraint,
                tuple(make_operand(value, producer_of, draft.moved_by) for value in draft_node.operands),
                draft_node.constants,
                None if constraint.is_loss else draft_node.output,
                draft_node.source,
                draft_node.loops,
            )
        )
    reading_themselves = {
        (index, index)
        for index, node in enumerate(nodes)
        if any(index in operand.producers for operand in node.operands)
    }
    nodes, index_of = insert_identities(nodes, reading_themselves)
    found = (producer_of.get(value) for value in flat.parameters)
    return ConstraintGraph(
        tuple(nodes),
        tuple(None if old is None else index_of[old] for old in found),
        flat,
        tuple(draft.constant_equations),
    )
