"""Over which mesh axes the arrays of a constraint graph are divided: labels of every axis.

Batches are divided over `data`, features over `model`; both follow from the graph, as labels that
run along it from the data and the parameters (`propagation`). A parameter's axis is one of features
where one elementary constraint does not extend along it: of a product, the axis that is not
contracted; of a bias, the axis along which the value it is added to is divided.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax

from ..graph import ConstraintGraph
from ..graph.graph import Node
from ..graph.ir import Value, abstract, state_dtype
from ..problem import ExpandedProblem
from .propagation import Labels, merge, propagate


@dataclass(frozen=True)
class GraphLabels:
    """Labels of all arrays that belong to a graph.

    - `outputs`: for each node, of what it produces; None for a loss.
    - `operands`: for each node, of what it consumes.
    - `means`: for each node, of what its consensus gives back to its operands.
    - `copies`: for each node, of what the expanded state holds.
    - `tracers`: for each constraint, what its labels were found with.
    """

    outputs: tuple[Labels | None, ...]
    operands: tuple[tuple[Labels, ...], ...]
    means: tuple[tuple[Labels, ...], ...]
    copies: tuple[tuple[Labels, ...], ...]
    tracers: "Mapping[int, _Tracer]"

    def between_uses(
        self,
        graph: ConstraintGraph,
        parameters: Mapping[int, Labels],
        summed: Callable[[tuple[int, ...], Labels], Labels],
        still: Mapping[int, int],
    ) -> "GraphLabels":
        """Other labels of some parameters, by node, between their uses: what consumes them does not see
        these.

        **Arguments:** `summed(shape, labels)`: those of a mean that is given back to such a parameter; of
        some nodes the operand whose mean is made where it lies `still`.
        """
        outputs, copies, means = list(self.outputs), list(self.copies), list(self.means)
        for index, labels in parameters.items():
            outputs[index], copies[index] = labels, (labels,)
        for index, tracer in self.tracers.items():
            of_producers = [parameters.get(x, ()) for x in tracer.producers]
            if any(of_producers):
                own, _, _ = tracer.labels(of_producers)
                shapes = [x.value.shape for x in graph.nodes[index].operands]
                places = [merge(both) for both in zip(self.means[index], own, strict=True)]
                means[index] = tuple(
                    place if still.get(index) == side else summed(shape, place)
                    for side, (shape, place) in enumerate(zip(shapes, places, strict=True))
                )
        return replace(self, outputs=tuple(outputs), copies=tuple(copies), means=tuple(means))


def label_graph(
    graph: ConstraintGraph,
    data: Sequence[Labels],
    given: Mapping[int, Labels],
    fit: Callable[[tuple[int, ...], Labels], Labels],
    features: Any,
    iterations: Any,
) -> GraphLabels:
    """Labels of every array of a graph.

    **Arguments:** labels of the `data` arrays; those `given` for parameters, by node, which are
    kept; `fit(shape, labels)` drops the labels that an array of this shape cannot have;
    `features` and `iterations`, the labels of feature axes and of parameters stacked for a loop.
    """
    constants = _constant_labels(graph, data)
    outputs: list[Labels | None] = [None] * len(graph.nodes)
    operands: list[tuple[Labels, ...]] = [()] * len(graph.nodes)
    means: list[tuple[Labels, ...]] = [()] * len(graph.nodes)
    copies: list[tuple[Labels, ...]] = [()] * len(graph.nodes)
    for index, labels in given.items():
        outputs[index] = labels
    tracers = {
        index: _Tracer(graph, index, constants)
        for index, node in enumerate(graph.nodes)
        if node.constraint is not None
    }
    # The carry of a loop is read before it is produced, so that its labels come with the second round.
    for index, tracer in [*tracers.items()] * (2 if graph.function.carries else 1):
        node = graph.nodes[index]
        for producer in sorted(graph.producers[index]):
            if outputs[producer] is None and graph.nodes[producer].constraint is None:
                found = tracer.features_of(producer, outputs, features, iterations)
                outputs[producer] = fit(_produced(graph.nodes[producer]).shape, found)
        consumed, stored, output = tracer.labels([outputs[x] or () for x in tracer.producers])
        stored = tracer.aligned(stored)
        copies[index] = tuple(fit(x.shape, labels) for x, labels in zip(node.stored, stored, strict=True))
        operands[index] = tuple(
            fit(x.value.shape, labels)
            for x, labels in zip(node.operands, tracer.consumed(consumed, stored), strict=True)
        )
        # A mean over copies that several devices hold goes to the devices that hold its producer.
        means[index] = (
            operands[index]
            if _is_single(node)
            else tuple(fit(x.value.shape, y) for x, y in zip(node.operands, consumed, strict=True))
        )
        if node.output is not None:
            outputs[index] = fit(node.output.shape, output)
    for index, node in enumerate(graph.nodes):
        if node.constraint is None:
            copies[index] = (outputs[index] or (None,) * len(_produced(node).shape),)
    return GraphLabels(tuple(outputs), tuple(operands), tuple(means), tuple(copies), tracers)


def _is_single(node: Node) -> bool:
    """Whether there is one copy of everything."""
    return all(isinstance(count, int) and count == 1 for count in node.multiplicity)


def _produced(node: Node) -> jax.ShapeDtypeStruct:
    assert node.output is not None
    return jax.ShapeDtypeStruct(node.output.shape, state_dtype(node.output.dtype))


def _constant_labels(graph: ConstraintGraph, data: Sequence[Labels]) -> dict[Value, Labels]:
    """Labels of every value that depends on no parameter."""
    values: list[Value] = []

    def evaluate(data: list[Any], captured: list[Any]) -> list[Any]:
        environment = graph.constants(data, captured)
        values.extend(environment)
        return list(environment.values())

    captured = [abstract(value) for value in graph.function.captured]
    jaxpr = jax.make_jaxpr(evaluate)([abstract(x) for x in graph.function.data], captured)
    none: list[Labels] = [(None,) * len(x.shape) for x in captured]
    return dict(zip(values, propagate(jaxpr, [*data, *none]), strict=True))


class _Tracer:
    """One constraint as a jaxpr from what its producers produce to its copies and its output."""

    def __init__(self, graph: ConstraintGraph, index: int, constants: dict[Value, Labels]):
        node = graph.nodes[index]
        self.constraint = node.constraint
        assert self.constraint is not None
        self.producers = sorted(graph.producers[index])
        self.spanned = self.constraint.spanned([x.value.shape for x in node.operands])
        self.stored = [x.shape for x in node.stored]
        self.looped = bool(node.loops)
        used = {value for operand in node.operands for step in operand.path for value in step.inputs}
        used.update(node.constants, (x.value for x in node.operands if x.is_constant))
        needed = [value for value in constants if value in used]
        self.constants = [constants[value] for value in needed]

        def trace(produced: list[Any], arrays: list[Any]) -> tuple[Any, ...]:
            assert self.constraint is not None
            problem = ExpandedProblem(graph, dict(zip(needed, arrays, strict=True)))
            by_node = dict(zip(self.producers, produced, strict=True))
            operands = problem.gather(index, by_node.__getitem__)
            output = self.constraint.forward(operands, problem.constant_operands(index))
            return operands, self.constraint.expand(operands), output

        self.jaxpr = jax.make_jaxpr(trace)(
            [_produced(graph.nodes[i]) for i in self.producers],
            [abstract(value) for value in needed],
        )
        self.expansion = jax.make_jaxpr(self.constraint.expand)(
            tuple(jax.ShapeDtypeStruct(x.value.shape, state_dtype(x.value.dtype)) for x in node.operands)
        )

    def features_of(
        self, producer: int, outputs: Sequence[Labels | None], features: Any, iterations: Any
    ) -> Labels:
        """Labels for a parameter that this constraint consumes.

        `iterations` on the axis that runs along those of a loop, `features` on one other at most.
        """
        assert self.constraint is not None
        rank = len(self.jaxpr.in_avals[self.producers.index(producer)].shape)
        tags = tuple(f"axis {axis}" for axis in range(rank))
        operands, tagged, _ = self.labels([tags if x == producer else () for x in self.producers])
        stacked = {labels[0] for labels in operands} - {None} if self.looped else set()
        _, known, _ = self.labels([() if x == producer else outputs[x] or () for x in self.producers])
        best: tuple[tuple[bool, int], str] | None = None
        for shape, own, spans in zip(self.stored, tagged, self.spanned, strict=True):
            for axis, tag in enumerate(own):
                beside = {x[axis] for other, x in zip(self.stored, known, strict=True) if other == shape} - {
                    None
                }
                if tag is None or tag in stacked or axis in spans or not beside <= {features}:
                    continue
                rating = (bool(beside), shape[axis])
                if best is None or rating > best[0]:
                    best = rating, tag
        chosen = None if best is None else best[1]
        return tuple(iterations if tag in stacked else features if tag == chosen else None for tag in tags)

    def labels(self, produced: Sequence[Labels]) -> tuple[list[Labels], list[Labels], Labels]:
        """The labels of operands, copies and output, from those of what is produced; () for no labels."""
        ranks = [len(x.shape) for x in self.jaxpr.in_avals[: len(produced)]]
        filled = [x or (None,) * rank for x, rank in zip(produced, ranks, strict=True)]
        *arrays, output = propagate(self.jaxpr, [*filled, *self.constants])
        count = len(self.stored)
        return arrays[:count], arrays[count:], output

    def aligned(self, stored: Sequence[Labels]) -> list[Labels]:
        """Labels with which each elementary constraint is whole on one device.

        Copies of one shape are divided alike, and no axis that an elementary constraint spans is.
        """
        return [
            tuple(
                None if axis in spans else label
                for axis, label in enumerate(
                    merge([x for x, other in zip(stored, self.stored, strict=True) if other == shape])
                )
            )
            for shape, spans in zip(self.stored, self.spanned, strict=True)
        ]

    def consumed(self, operands: Sequence[Labels], stored: Sequence[Labels]) -> list[Labels]:
        """The operands' labels, where their axes are axes of the copies those of the copies."""
        tags: list[Labels] = [
            tuple((i, axis) for axis in range(len(labels))) for i, labels in enumerate(operands)
        ]
        of_copies = {
            tag: label
            for places, labels in zip(propagate(self.expansion, tags), stored, strict=True)
            for tag, label in zip(places, labels, strict=True)
        }
        return [
            tuple(of_copies.get(tag, label) for tag, label in zip(of, labels, strict=True))
            for of, labels in zip(tags, operands, strict=True)
        ]
