"""Weighted distances: which variables move, and how far, when a constraint is projected."""

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from .errors import ArgumentError
from .graph import ConstraintGraph
from .graph.graph import Node
from .graph.paths import Pattern, matches
from .settings import Setting, Weights, check_positive, is_unit


class Metric(Weights):
    r"""Weights of the squared distances in which projections are nearest points.

    A constraint y = f(x, w) of inputs x, of which w are made of parameters alone, is projected onto

    $$\arg\min_{x', w'} u\,|x' - x|^2 + v\,|w' - w|^2 + s\,|f(x', w') - y|^2$$

    over all of its copies, and consensus is the mean over consumers weighted by their factors. With all
    numbers 1 both are those without a metric, bit for bit. Gaps are measured in the same distances, those of
    a node in units of s.

    **Arguments:** numbers above zero. They are settings like those of solvers: operands of the compiled
    program, so that a new value compiles nothing and `jax.vmap` over them works. A Python 1 takes a weight
    out of the program.

    - `weights`: v. Where it is large, parameters move little, and more of a change goes on to the layers
      below.
    - `activations`: u, also of the operands of losses.
    - `outputs`: s, or "copies": as many as the output has copies, so that a node gives way to all of its
      consumers as much as to itself.
    - `nodes`: pairs of a pattern of nodes' names (as in `fnmatch`; `print(pjp.constraint_graph(...))` shows
      them) and the factor of a node in the consensus of what it consumes; the first that matches counts,
      without one it is 1. All distances of a node share its factor: its own projection does not depend on it.
    """

    weights: Setting = 1.0
    activations: Setting = 1.0
    outputs: Setting | Literal["copies"] = 1.0
    nodes: tuple[tuple[Pattern, Setting], ...] = ()

    def __check_init__(self) -> None:
        check_positive(weights=self.weights, activations=self.activations)
        if isinstance(self.outputs, str) and self.outputs != "copies":
            raise ArgumentError(
                f"outputs: expected a finite number above zero or 'copies', given {self.outputs!r}"
            )
        if not isinstance(self.outputs, str):
            check_positive(outputs=self.outputs)
        for pattern, factor in self.nodes:
            check_positive(**{f"nodes ({pattern!r})": factor})

    @property
    def is_unit(self) -> bool:
        """Whether all distances are as without a metric."""
        return not self.nodes and all(map(is_unit, (self.weights, self.activations, self.outputs)))

    def factor(self, name: str) -> Setting:
        """The factor of a node in consensus."""
        return next((factor for pattern, factor in self.nodes if matches(pattern, name)), 1.0)


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "unit": Metric(),
        "slow-weights": Metric(weights=100.0),
        "full-outputs": Metric(weights=100.0, outputs="copies"),
    }
)
"""Presets by name. "unit": all distances alike, as in arXiv 2506.05878. "slow-weights": parameters move a
hundredth as far. "full-outputs": these, and nodes give way to all their consumers."""


def metric_of(given: Metric | str) -> Metric:
    """A metric, from itself or the name of a preset."""
    if isinstance(given, Metric):
        return given
    if not isinstance(given, str) or given not in METRICS:
        raise ArgumentError(f"metric: expected a Metric or one of {', '.join(METRICS)}, given {given!r}")
    return METRICS[given]


def weigh(graph: ConstraintGraph, metric: Metric) -> ConstraintGraph:
    """The graph with projections and consensus in a metric, whose numbers may be traced.

    **Errors:** `ArgumentError` for a node whose projection knows no weights, and for a pattern that matches
    none.
    """
    if metric.is_unit:
        return graph
    names = [node.name for node in graph.nodes if node.constraint is not None]
    for pattern, _ in metric.nodes:
        if not any(matches(pattern, name) for name in names):
            raise ArgumentError(f"nodes: {pattern!r} matches no node; there are {', '.join(names)}")
    return replace(
        graph,
        nodes=tuple(_weighed(graph, index, metric) for index in range(len(graph.nodes))),
        factors=tuple(metric.factor(node.name) for node in graph.nodes) if metric.nodes else (),
    )


def _weighed(graph: ConstraintGraph, index: int, metric: Metric) -> Node:
    node = graph.nodes[index]
    if node.constraint is None:
        return node
    output: Any = _copies(graph, index) if isinstance(metric.outputs, str) else metric.outputs
    unit = 1.0 if node.constraint.is_loss else output
    inputs = [metric.weights if graph.is_parameter(x) else metric.activations for x in node.operands]
    if all(map(is_unit, (unit, *inputs))):
        return node
    weights = tuple(weight / unit for weight in inputs)
    weighted = node.constraint.weighted(weights)
    if weighted is None:
        raise ArgumentError(
            f"metric: {node.name} ({node.source}) is a {node.kind} constraint, whose projection knows no "
            "weights: expected its inputs and its output to weigh 1 each, given "
            f"{', '.join(map(str, inputs))} and {unit}"
        )
    return replace(node, constraint=weighted)


def _copies(graph: ConstraintGraph, index: int) -> float:
    """How many copies an element of what a node produces has, on average; at least 1."""
    total = 0.0
    for use in graph.uses[index]:
        consumer = graph.nodes[use.consumer]
        operand = consumer.operands[use.operand]
        size = sum(math.prod(value.shape) for value in operand.inputs)
        total += float(np.mean(consumer.multiplicity[use.operand])) * operand.value.size / max(size, 1)
    return max(total, 1.0)
