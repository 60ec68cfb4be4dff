"""A constraint graph as text, in the manner of a jaxpr."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .ir import Value, state_dtype

if TYPE_CHECKING:
    from .graph import ConstraintGraph, Node


def format_graph(graph: ConstraintGraph) -> str:
    """One line per node: name, loops, shape, inputs, colour, constraints, copies, bytes in both forms."""
    rows: list[tuple[str, ...]] = [
        ("node", "loop", "output", "from", "set", "constraints", "copies", "expanded", "compressed")
    ]
    totals = [0, 0, 0, 0]
    for index, node in enumerate(graph.nodes):
        expanded = _expanded_bytes(node)
        compressed = _compressed_bytes(node)
        for i, number in enumerate((node.constraints, node.copies, expanded, compressed)):
            totals[i] += number
        rows.append(
            (
                _title(node),
                ", ".join(map(str, node.loops)),
                "" if node.output is None else _shape(node.output),
                _inputs(graph, node),
                "" if graph.colours is None else "AB"[graph.colours[index]],
                f"{node.constraints:,}" if node.constraint is not None else "",
                f"{node.copies:,}",
                _bytes(expanded),
                _bytes(compressed),
            )
        )
    rows.append(
        ("total", "", "", "", "", f"{totals[0]:,}", f"{totals[1]:,}", _bytes(totals[2]), _bytes(totals[3]))
    )
    if not any(node.loops for node in graph.nodes):
        rows = [(row[0], *row[2:]) for row in rows]
    words = len(rows[0]) - 4  # columns of text; the others are numbers
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            text.ljust(width) if column < words else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "-" * max(map(len, lines))
    parameters = sum(node.constraint is None for node in graph.nodes)
    title = (
        f"constraint graph: {parameters} parameters, {len(graph.nodes) - parameters} constraint nodes, "
        f"{graph.identities} identities inserted"
    )
    return "\n".join([title, lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _title(node: Node) -> str:
    if node.constraint is None:
        return node.name
    detail = node.constraint.describe()
    return f"{node.name}[{detail}]" if detail else node.name


def _shape(value: Value) -> str:
    return f"{value.dtype.name}[{','.join(map(str, value.shape))}]"


def _inputs(graph: ConstraintGraph, node: Node) -> str:
    """The operands, each as its producers and the movements on the way."""
    texts = []
    for operand in node.operands:
        if operand.is_constant:
            texts.append(f"data {_shape(operand.value)}")
            continue
        text = ", ".join(graph.nodes[producer].name for producer in operand.producers)
        moves = [equation.primitive.name for equation in operand.path]
        if moves:
            text = f"{'.'.join(moves)}({text})"
        texts.append(text)
    texts += [f"const {_shape(value)}" for value in node.constants]
    return "; ".join(texts)


def _expanded_bytes(node: Node) -> int:
    if node.constraint is None:
        return 0 if node.output is None else node.output.size * state_dtype(node.output.dtype).itemsize
    return sum(x.size * state_dtype(x.dtype).itemsize for x in node.stored)


def _compressed_bytes(node: Node) -> int:
    if node.constraint is None:
        return _expanded_bytes(node)
    return sum(
        value.size * state_dtype(value.dtype).itemsize
        for operand in node.operands
        for value in operand.inputs
    )


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.3g} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1000
    raise AssertionError
