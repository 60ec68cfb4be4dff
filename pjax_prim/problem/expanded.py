"""The expanded form: every copy is stored. Any solver can run on it."""

from collections.abc import Sequence
from functools import cache

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..rules.constraint import squared_distance
from .base import AbstractProblem, State


class ExpandedProblem(AbstractProblem):
    """Projections of a state that holds one array per operation input, copies and all.

    The state is a vector space: solvers may add and scale states freely.
    """

    def initial(self, parameters: Sequence[Array]) -> State:
        produced = self.outputs(parameters)
        return tuple(
            (produced[index],)
            if node.constraint is None
            else node.constraint.expand(self.gather(index, produced.__getitem__))
            for index, node in enumerate(self.graph.nodes)
        )

    def cycle(self, sets: Sequence[tuple[int, ...]], state: State) -> tuple[State, list[Array]]:
        moved = []
        for members in sets:
            projected = self.project(members, state)
            moved.append(self.squared_distances(state, projected))
            state = projected
        return state, moved

    def project(self, members: Sequence[int], state: State) -> State:
        """Projects one set of nodes; see `AbstractProblem.cycle`."""
        means = cache(lambda node: self._means(state, node))
        changed = list(state)
        produced: dict[int, Array] = {}
        for index in members:
            constraint = self.graph.nodes[index].constraint
            if constraint is None:
                target = self._target(index, state, means)
                changed[index] = (target,)
                produced[index] = target
                continue
            constants = self.constant_operands(index)
            target = None if constraint.is_loss else self._target(index, state, means)
            copies = constraint.project(state[index], target, constants)
            changed[index] = copies
            if not constraint.is_loss:
                produced[index] = constraint.evaluate(copies, constants)
        projected = tuple(changed)
        present = cache(
            lambda index: produced[index] if index in produced else self._output(projected, index)
        )
        for index in self.fed_by(members):
            constraint = self.graph.nodes[index].constraint
            assert constraint is not None
            changed[index] = constraint.expand(self.gather(index, present))
        return tuple(changed)

    def mean(self, state: State, node: int, operand: int) -> Array:
        return self._means(state, node)[operand]

    def squared_distances(self, a: State, b: State) -> Float[Array, " nodes"]:
        """The squared distance of two states, for each node over its copies."""
        return jnp.stack(
            [
                sum((squared_distance(p, q) for p, q in zip(x, y, strict=True)), jnp.zeros(()))
                for x, y in zip(a, b, strict=True)
            ]
        )

    def _means(self, state: State, node: int) -> tuple[Array, ...]:
        constraint = self.graph.nodes[node].constraint
        assert constraint is not None
        return constraint.average(state[node])

    def _target(self, node: int, state: State, means) -> Array:
        return self.target(
            node,
            lambda consumer, operand: means(consumer)[operand],
            lambda: self._output(state, node),
        )

    def _output(self, state: State, index: int) -> Array:
        """What a node produces in a state."""
        constraint = self.graph.nodes[index].constraint
        if constraint is None:
            return state[index][0]
        return constraint.evaluate(state[index], self.constant_operands(index))
