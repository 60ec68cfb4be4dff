"""The constraint graph: parameters and constraints, joined by paths of data."""

import math
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, chain
from typing import Any

import jax

from ..rules import AbstractConstraint
from ..rules.constraint import Count
from ..rules.elementwise import Identity
from .colour import two_colour
from .infinite import infinite_literals
from .ir import Environment, Equation, Loop, Value, abstract, evaluate, leading_to
from .operand import Operand
from .printing import format_graph
from .trace import FlatFunction


@dataclass(frozen=True, eq=False)
class Node:
    """A parameter or a constraint.

    - `name`: the parameter's path in the model, or the kind with a running number.
    - `constraint`: None for a parameter.
    - `operands`: what it consumes with copies.
    - `constants`: what enters exactly.
    - `output`: the value it produces; None for a loss.
    - `source`: the user's file and line; empty for a parameter.
    - `loops`: those whose iterations it stands for, outermost first; each is one leading axis.
    """

    name: str
    constraint: AbstractConstraint | None
    operands: tuple[Operand, ...] = ()
    constants: tuple[Value, ...] = ()
    output: Value | None = None
    source: str = ""
    loops: tuple[Loop, ...] = ()

    @property
    def kind(self) -> str:
        return "parameter" if self.constraint is None else self.constraint.kind

    @cached_property
    def multiplicity(self) -> tuple[Count, ...]:
        """See `AbstractConstraint.multiplicity`."""
        if self.constraint is None:
            return ()
        return self.constraint.multiplicity([x.value.shape for x in self.operands])

    @cached_property
    def stored(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """What the expanded state holds for this node: shapes and dtypes."""
        if self.constraint is None:
            return () if self.output is None else (abstract(self.output),)
        operands = tuple(abstract(x.value) for x in self.operands)
        return jax.eval_shape(self.constraint.expand, operands)

    def scope(self) -> AbstractContextManager[None]:
        """Operations made inside carry the node's name, in lowered text and in profiles."""
        return jax.named_scope(self.name)

    @property
    def copies(self) -> int:
        """How many numbers the expanded state holds for this node."""
        return sum(x.size for x in self.stored)

    @property
    def constraints(self) -> int:
        """How many elementary constraints this node stands for."""
        if self.constraint is None:
            return 0
        if self.output is not None:
            return self.output.size
        return math.prod(self.operands[0].value.shape[:-1])


@dataclass(frozen=True)
class Use:
    """Input `input` of operand `operand` of node `consumer` reads the producer in question."""

    consumer: int
    operand: int
    input: int


@dataclass(frozen=True, eq=False)
class ConstraintGraph:
    """The feasibility problem of a function, without its numbers.

    - `nodes`: in an order in which producers come before consumers, but for the carries of loops.
    - `parameters`: for each parameter array of the function its node, or None if it reaches
      no loss.
    - `function`: the traced function; `constant_equations` are those of its equations (and
      derived ones) that depend on no parameter.
    - `colours`: for each node 0 (set A) or 1 (set B); None before two-colouring.
    - `factors`: for each node the factor of its copies in consensus; empty where all are 1.
    - `weights`: constant values: the relative weights of losses that may be negative, which is an error.
    - `signed`: of losses that have an opposite their steps, which may be negative, too.
    """

    nodes: tuple[Node, ...]
    parameters: tuple[int | None, ...]
    function: FlatFunction
    constant_equations: tuple[Equation, ...]
    colours: tuple[int, ...] | None = None
    factors: tuple[Any, ...] = ()
    weights: tuple[Value, ...] = ()
    signed: tuple[Value, ...] = ()

    @cached_property
    def uses(self) -> tuple[tuple[Use, ...], ...]:
        """Gives for each node the operands that read it."""
        found: list[list[Use]] = [[] for _ in self.nodes]
        for consumer, node in enumerate(self.nodes):
            for position, operand in enumerate(node.operands):
                for entry, producer in enumerate(operand.producers):
                    found[producer].append(Use(consumer, position, entry))
        return tuple(tuple(uses) for uses in found)

    @cached_property
    def producers(self) -> tuple[frozenset[int], ...]:
        """Gives for each node the nodes that it reads."""
        return tuple(
            frozenset(producer for operand in node.operands for producer in operand.producers)
            for node in self.nodes
        )

    def is_parameter(self, operand: Operand) -> bool:
        """Whether an operand is made of parameters only."""
        return bool(operand.producers) and all(self.nodes[x].constraint is None for x in operand.producers)

    @property
    def losses(self) -> tuple[int, ...]:
        """The nodes that are losses."""
        return tuple(
            index
            for index, node in enumerate(self.nodes)
            if node.constraint is not None and node.constraint.is_loss
        )

    @property
    def identities(self) -> int:
        """How many identity constraints two-colouring inserted."""
        return sum(isinstance(node.constraint, Identity) for node in self.nodes)

    @cached_property
    def sets(self) -> tuple[tuple[int, ...], ...]:
        """The sets of nodes that solvers project onto: A and B, or without colours `backward_sets`."""
        if self.colours is None:
            return self.backward_sets()
        coloured = list(enumerate(self.colours))
        return tuple(tuple(index for index, other in coloured if other == colour) for colour in (0, 1))

    @cached_property
    def infinite_literals(self) -> tuple[Value, ...]:
        """The infinite literals that constraints take; those of operations they stand for are not."""
        operands = [operand for node in self.nodes for operand in node.operands]
        equations = (*self.constant_equations, *chain.from_iterable(x.path for x in operands))
        return infinite_literals(
            chain(
                chain.from_iterable(node.constants for node in self.nodes),
                (operand.value for operand in operands),
                chain.from_iterable(equation.inputs for equation in equations),
            )
        )

    def constants(
        self, data: Sequence[Any], captured: Sequence[Any], wanted: Collection[Value] | None = None
    ) -> Environment:
        """The constant values, from the function's data arrays and those it closes over.

        **Arguments:** `wanted`, those to evaluate; all by default.
        """
        function = self.function
        environment: Environment = dict(function.baked)
        environment.update(zip(function.captured, captured, strict=True))
        environment.update(zip(function.data, data, strict=True))
        equations = self.constant_equations
        evaluate(equations if wanted is None else leading_to(equations, wanted), environment)
        return environment

    def backward_sets(self) -> tuple[tuple[int, ...], ...]:
        """The sets of the cyclic solvers: the losses, then all producers of the set before.

        A node that is reached by paths of different lengths is in several sets. A path goes
        through the carry of a loop at most once: what a label asks for gets from one iteration
        to the one before in a sweep, and the sets are finite.
        """
        reached = {(loss, False) for loss in self.losses}
        sets = []
        while reached:
            sets.append(tuple(sorted({node for node, _ in reached})))
            reached = {
                (producer, before or carried)
                for node, before in reached
                for operand in self.nodes[node].operands
                for producer, carried in zip(operand.producers, operand.carried, strict=True)
                if not (before and carried)
            }
        return tuple(sets)

    @cached_property
    def two_coloured(self) -> "ConstraintGraph":
        """The graph with every edge between set A and set B; the first loss is in set A.

        Where a producer has a consumer of its own colour, one identity constraint is inserted
        between the two.
        """
        return self if self.colours is not None else _two_coloured(self)

    def __str__(self) -> str:
        return format_graph(self)


def _two_coloured(graph: ConstraintGraph) -> ConstraintGraph:
    edges = [
        (producer, consumer)
        for consumer, producers in enumerate(graph.producers)
        for producer in sorted(producers)
    ]
    colours = two_colour(len(graph.nodes), edges, graph.losses[0])
    alike = {edge for edge in edges if colours[edge[0]] == colours[edge[1]]}
    nodes, index_of = insert_identities(graph.nodes, alike)
    new_colours = [-1] * len(nodes)
    for old, new in enumerate(index_of):
        new_colours[new] = colours[old]
    for new, colour in enumerate(new_colours):  # an identity follows its producer
        new_colours[new] = 1 - new_colours[new - 1] if colour < 0 else colour
    parameters = tuple(None if p is None else index_of[p] for p in graph.parameters)
    return replace(graph, nodes=tuple(nodes), parameters=parameters, colours=tuple(new_colours))


def insert_identities(
    nodes: Sequence[Node], edges: Collection[tuple[int, int]]
) -> tuple[list[Node], list[int]]:
    """Nodes with an identity constraint on some edges, `(producer, consumer)` pairs.

    The edges of one producer share an identity, which follows the producer.

    **Returns:** the new nodes, and where the old ones are among them.
    """
    producers = {producer for producer, _ in edges}
    before = accumulate((old in producers for old in range(len(nodes))), initial=0)
    index_of = [old + count for old, count in zip(range(len(nodes)), before, strict=False)]
    number = sum(isinstance(node.constraint, Identity) for node in nodes)
    new: list[Node] = []
    for old, node in enumerate(nodes):
        operands = tuple(
            replace(
                operand,
                producers=tuple(
                    index_of[producer] + ((producer, old) in edges) for producer in operand.producers
                ),
            )
            for operand in node.operands
        )
        new.append(replace(node, operands=operands))
        if old in producers:
            assert node.output is not None
            operand = Operand(node.output, (node.output,), (index_of[old],), (), (1,), (False,))
            name = f"identity_{number}"
            number += 1
            new.append(Node(name, Identity(), (operand,), (), node.output, node.source, node.loops))
    return new, index_of
