"""What both forms of a feasibility problem share: consensus, and reading parameters."""

import abc
from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..graph import ConstraintGraph
from ..graph.ir import Environment

Form = Literal["compressed", "expanded"]
State = tuple[tuple[Array, ...], ...]
"""For each node of the graph its arrays: a parameter's own variable, or what a constraint holds."""

Readout = Literal["shadow", "governing"]


class AbstractProblem(abc.ABC):
    """A constraint graph with its constant values.

    **Arguments:** `graph`; `constants`, the values that depend on no parameter.
    """

    def __init__(self, graph: ConstraintGraph, constants: Environment):
        self.graph = graph
        self.constants = constants

    @abc.abstractmethod
    def initial(self, parameters: Sequence[Array]) -> State:
        """The state in which all copies agree with the forward pass."""

    @abc.abstractmethod
    def cycle(self, sets: Sequence[tuple[int, ...]], state: State) -> tuple[State, list[Array]]:
        """Projects onto one set of nodes after another.

        Projecting a set projects each of its nodes (the output target is the mean over its
        consumers of each consumer's own mean over copies; a parameter's projection is that
        mean), then overwrites all inputs of every constraint that a member of the set feeds
        with the present values of their producers.

        **Arguments:** `sets` of node indices; `state`.

        **Returns:** the new state, and for each set the squared distance moved, as an array over
        nodes (copies belong to the constraint that consumes them).
        """

    @abc.abstractmethod
    def mean(self, state: State, node: int, operand: int) -> Array:
        """The mean over copies of an operand, in the operand's shape."""

    def parameters(self, state: State, readout: Readout) -> list[Array | None]:
        """The parameters that a state stands for; None where one reaches no loss.

        `readout` "governing" gives the parameters' own variables, "shadow" their projection: the
        consensus of all their copies.
        """
        means = cache(lambda node, operand: self.mean(state, node, operand))

        def read(node: int) -> Array:
            own = state[node][0]
            return own if readout == "governing" else self.target(node, means, lambda: own)

        return [None if node is None else read(node) for node in self.graph.parameters]

    def target(
        self, node: int, mean: Callable[[int, int], Array], present: Callable[[], Array]
    ) -> Array:
        """The consensus value of what a node produces.

        The mean runs over the consumers that touch an element; an element that nobody uses keeps
        its value.

        **Arguments:** `mean(consumer, operand)`, the mean over copies; `present()`, the value the
        node has now.
        """
        total: Array | float = 0.0
        touched: Array | int = 0
        for use in self.graph.uses[node]:
            operand = self.graph.nodes[use.consumer].operands[use.operand]
            mean_over_copies = mean(use.consumer, use.operand)
            summed, count = operand.spread(mean_over_copies, self.constants)[use.input]
            if isinstance(count, int):
                total = total + (summed if count == 1 else summed / count)
                touched = touched + 1
            else:
                total = total + summed / jnp.maximum(count, 1)
                touched = touched + (count > 0)
        if isinstance(touched, int):
            return total if touched == 1 else total / touched  # type: ignore[return-value]
        return jnp.where(touched > 0, total / jnp.maximum(touched, 1), present())

    def fed_by(self, members: Sequence[int]) -> list[int]:
        """The constraints that a set of nodes feeds."""
        return sorted({use.consumer for node in members for use in self.graph.uses[node]})

    def constant_operands(self, node: int) -> tuple[Array, ...]:
        """The constants of a constraint."""
        return tuple(
            jnp.asarray(self.constants[value] if value.literal is None else value.literal)
            for value in self.graph.nodes[node].constants
        )

    def outputs(self, parameters: Sequence[Array]) -> dict[int, Array]:
        """The forward pass: what each node produces."""
        produced: dict[int, Array] = {
            node: array
            for node, array in zip(self.graph.parameters, parameters, strict=True)
            if node is not None
        }
        for index, node in enumerate(self.graph.nodes):
            if node.constraint is not None and node.output is not None:
                produced[index] = node.constraint.forward(
                    self.gather(index, produced.__getitem__), self.constant_operands(index)
                )
        return produced

    def gather(self, node: int, produced: Callable[[int], Array]) -> tuple[Array, ...]:
        """The operands of a constraint from what its producers produce."""
        return tuple(
            operand.gather([produced(producer) for producer in operand.producers], self.constants)
            for operand in self.graph.nodes[node].operands
        )


def per_node(graph: ConstraintGraph, values: dict[int, Array]) -> Float[Array, " nodes"]:
    """Scalars of some nodes as an array over all nodes."""
    return jnp.stack([jnp.asarray(values.get(i, 0.0)) for i in range(len(graph.nodes))])
