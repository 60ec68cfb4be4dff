"""The expanded form: every copy is stored. Any solver can run on it."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..graph.graph import Node, Use
from ..rules.constraint import Number, Reflection, squared_distances
from .base import AbstractProblem, Thing
from .placement import State

Averages = dict[int, tuple[Array, ...]]
"""What `AbstractConstraint.average` makes of the copies of some constraints, by node."""


class Summary(NamedTuple):
    """What `relaxed_reflections` needs to know of all copies of a state, by node.

    Reading them again for it would cost a pass over all of them.

    - `averages`: the averages of the second set's constraints.
    - `held`: what `AbstractConstraint.held` gives for constraints of the first set that have any and whose
      targets the second set's copies determine.
    """

    averages: Averages
    held: dict[int, Any]


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

    def arrange(
        self, outputs: Sequence[Thing], copies: Sequence[tuple[Thing, ...]]
    ) -> tuple[tuple[Thing, ...], ...]:
        return tuple(copies)

    def cycle(self, state: State) -> tuple[State, list[Array]]:
        moved = []
        for members in self.graph.sets:
            projected = self.project(members, state)
            moved.append(self.squared_distances(state, projected))
            state = projected
        return state, moved

    def project(self, members: Sequence[int], state: State) -> State:
        """Projects one set of nodes; see `AbstractProblem.cycle`."""
        means = self.means(state)
        changed = list(state)
        produced: dict[int, Array] = {}
        for index in members:
            changed[index], output = self._project_node(index, state, means)
            if output is not None:
                produced[index] = output
        projected = tuple(changed)
        present = cache(
            lambda index: produced[index] if index in produced else self._output(projected, index)
        )
        for index in self.fed_by(members):
            constraint = self.graph.nodes[index].constraint
            assert constraint is not None
            changed[index] = constraint.expand(self.gather(index, present))
        return tuple(changed)

    def summary_of(self, first: Sequence[int], second: Sequence[int], state: State) -> Summary:
        """The summary of a state for two sets that divide all nodes."""
        nodes = self.graph.nodes
        averages = {
            index: self._average(index, state) for index in second if nodes[index].constraint is not None
        }
        means = self._spread_means(averages.__getitem__)
        held = {}
        for index in first:
            constraint = nodes[index].constraint
            if constraint is None or constraint.is_loss or not self.is_determined(index):
                continue
            with nodes[index].scope():
                found = constraint.held(state[index], _given(self._target(index, state, means)))
            if found is not None:
                held[index] = found
        return Summary(averages, held)

    def relaxed_reflections(
        self,
        first: Sequence[int],
        second: Sequence[int],
        state: State,
        summary: Summary,
        relaxation: Number,
    ) -> tuple[State, Summary, Float[Array, " nodes"]]:
        """Gives z + 2 r (P_second R z - P_first z) with R = 2 P_first - I, for sets that divide all nodes.

        It is the same as `project` twice, but no shadow is ever stored whole: each constraint is taken
        from its old copies to its new ones at once.

        **Arguments:** the `summary` of `state`.

        **Returns:** the new state, its summary, and for each node the squared distance of the two shadows.
        """
        nodes = self.graph.nodes
        state_means = self._spread_means(summary.averages.__getitem__)
        new = Summary({}, {})
        reflections: dict[int, Reflection] = {}
        produced: dict[int, Array] = {}  # in the first shadow
        again: dict[int, Array] = {}  # in the second
        changed = list(state)
        gaps = [jnp.zeros(())] * len(nodes)
        for index in first:
            constraint = nodes[index].constraint
            target = self._target(index, state, state_means)
            if constraint is None:
                produced[index] = _given(target)
                continue
            constants = self.constant_operands(index)
            with nodes[index].scope():
                reflections[index] = constraint.reflection(
                    state[index], target, constants, summary.held.get(index)
                )
            if (output := reflections[index].output) is not None:
                produced[index] = output
        reflected_means = self._spread_means(lambda node: reflections[node].means())
        for index in second:
            constraint = nodes[index].constraint
            target = self._target(index, state, reflected_means)
            if constraint is None:
                again[index] = _given(target)
                continue
            operands = self.gather(index, produced.__getitem__)
            with nodes[index].scope():
                moved, output, gaps[index], new.averages[index] = constraint.reflect(
                    state[index], operands, target, self.constant_operands(index), relaxation
                )
            changed[index] = self.place_copies(index, moved)
            if output is not None:
                again[index] = output
        new_means = self._spread_means(new.averages.__getitem__)
        for index, reflection in reflections.items():
            operands = self.gather(index, again.__getitem__)

            def new_target(index: int = index) -> Array:
                return _given(self._target(index, tuple(changed), new_means))

            with nodes[index].scope():
                moved, gaps[index], held = reflection.leave(operands, relaxation, new_target)
            changed[index] = self.place_copies(index, moved)
            if held is not None:
                new.held[index] = held
        for index in (*first, *second):
            if nodes[index].constraint is None:
                # A parameter's own variable is projected with its own set only.
                (own,) = state[index]
                step = (produced[index] if index in produced else again[index]) - own
                changed[index] = (own + 2 * relaxation * step,)
                gaps[index] = jnp.sum(jnp.square(step))
        return tuple(changed), new, jnp.stack(gaps)

    def means(self, state: State) -> Callable[[Use], Array]:
        return self._spread_means(lambda node: self._average(node, state))

    def _average(self, node: int, state: State) -> tuple[Array, ...]:
        constraint = self.graph.nodes[node].constraint
        assert constraint is not None
        return constraint.average(state[node])

    def squared_distances(self, a: State, b: State) -> Float[Array, " nodes"]:
        """The squared distance of two states, for each node over its copies; those they share have none."""

        def of(node: Node, x: tuple[Array, ...], y: tuple[Array, ...]) -> Array:
            if x is y:
                return jnp.zeros(())
            return (
                squared_distances(x, y) if node.constraint is None else node.constraint.squared_between(x, y)
            )

        return jnp.stack([of(*each) for each in zip(self.graph.nodes, a, b, strict=True)])

    def _project_node(
        self, index: int, state: State, means: Callable[[Use], Array]
    ) -> tuple[tuple[Array, ...], Array | None]:
        """The projected copies of one node, and what it then produces (None for a loss)."""
        constraint = self.graph.nodes[index].constraint
        target = self._target(index, state, means)
        if constraint is None:
            return (_given(target),), target
        with self.graph.nodes[index].scope():
            copies, output = constraint.project_output(state[index], target, self.constant_operands(index))
        return self.place_copies(index, copies), output

    def _spread_means(self, averages: Callable[[int], tuple[Array, ...]]) -> Callable[[Use], Array]:
        """Means over all copies of a use, from a node's averages over the copies of its operands."""
        averages = cache(lambda node, given=averages: self.place_means(node, given(node)))
        means = cache(lambda node, operand: self.mean_over_uses(node, operand, averages(node)[operand]))
        return lambda use: means(use.consumer, use.operand)[use.input]

    def _target(self, node: int, state: State, means: Callable[[Use], Array]) -> Array | None:
        """The consensus value of what a node produces; None for a loss."""
        constraint = self.graph.nodes[node].constraint
        if constraint is not None and constraint.is_loss:
            return None
        return self.target(node, means, lambda: self._output(state, node))

    def _output(self, state: State, index: int) -> Array:
        """What a node produces in a state."""
        constraint = self.graph.nodes[index].constraint
        if constraint is None:
            return state[index][0]
        return constraint.evaluate(state[index], self.constant_operands(index))


def _given(target: Array | None) -> Array:
    assert target is not None, "only losses have no target"
    return target
