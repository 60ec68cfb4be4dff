"""How a function and example arguments become a constraint graph."""

import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ..errors import GraphError, LinearisedConstraintWarning, MissingRuleError, UnusedParameterWarning
from ..primitives._arguments import standard_promotion
from ..rules.linearised import Held, Linearised
from .cycles import cut_cycles
from .draft import Draft, make_draft
from .fuse import fuse
from .graph import ConstraintGraph, Node, insert_identities
from .ir import Value
from .operand import make_operand
from .program import Program
from .trace import FlatFunction, flatten


def build_graph(program: Program) -> ConstraintGraph:
    """The constraint graph of a program.

    **Errors:** `GraphError` and `MissingRuleError`, with the user's source line. A parameter that
    reaches no loss is an `UnusedParameterWarning` and stays as it is.
    """
    with standard_promotion():
        flat, names = flatten(program), program.names
        graph = _graph_of(flat, names, make_draft(flat))
    moved = {
        producer
        for node in graph.nodes
        for operand in node.operands
        for producer, count in zip(operand.producers, operand.counts, strict=True)
        if count is None or np.any(count)
    }
    if moved.isdisjoint(graph.parameters):
        raise GraphError(
            "fn: every parameter is behind jax.lax.stop_gradient or reaches no loss: nothing is trained"
        )
    _check_held(graph)
    unused = [name for node, name in zip(graph.parameters, names, strict=True) if node is None]
    if unused:
        warnings.warn(
            f"params: {', '.join(unused)} reach(es) no loss and will not change",
            UnusedParameterWarning,
            stacklevel=3,
        )
    _report_linearised(graph)
    return graph


def _check_held(graph: ConstraintGraph) -> None:
    """Raises `MissingRuleError` where a parameter reaches losses only through operations that ask nothing."""
    held = {i: x.constraint for i, x in enumerate(graph.nodes) if isinstance(x.constraint, Held)}
    if not held:
        return
    asked, left = set(graph.losses), list(graph.losses)
    while left:
        new = {x for operand in graph.nodes[left.pop()].operands for x in operand.producers} - asked
        asked |= new
        left += new - held.keys()
    for parameter in {x for x in graph.parameters if x is not None} - asked:
        reached, left = {parameter}, [parameter]
        while left:
            new = {use.consumer for use in graph.uses[left.pop()]} - reached
            reached |= new
            left += new
        raise MissingRuleError(held[min(reached & held.keys())].refusal)


def _report_linearised(graph: ConstraintGraph) -> None:
    """One warning for all nodes without a projection of their own."""
    nodes = [
        f"{node.name}[{node.constraint.describe()}] ({node.source})"
        for node in graph.nodes
        if isinstance(node.constraint, Linearised)
    ]
    if nodes:
        steps = any(isinstance(node.constraint, Held) for node in graph.nodes)
        held = ". Those named held have a derivative of zero: nothing is asked of what they read" * steps
        warnings.warn(
            f"{len(nodes)} operation(s) without a projection of their own are linearised, which costs "
            f"several passes and finds a near point, not always the nearest: {'; '.join(nodes)}{held}",
            LinearisedConstraintWarning,
            stacklevel=4,
        )


def _graph_of(flat: FlatFunction, names: Sequence[str], draft: Draft) -> ConstraintGraph:
    """The graph of a function from the first draft of it, which this finishes."""
    fuse(draft)
    cut_cycles(draft)
    outputs = [node.output for node in draft.nodes if not node.constraint.is_loss]
    everything = dict.fromkeys((*flat.parameters, *outputs), 0)
    used: set[Value] = set()
    for value in (x for node in draft.nodes for x in node.operands):
        used.update(make_operand(value, everything, draft.moved_by).inputs)
    nodes = [
        Node(name, None, output=value)
        for value, name in zip(flat.parameters, names, strict=True)
        if value in used
    ]
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
        weights=() if draft.is_positive else tuple(draft.weights),
        signed=() if draft.is_positive else tuple(draft.signed),
    )
