"""The compressed form: copies that are equal by construction are never stored.

When a constraint is projected, all its copies agree, because its producers overwrote them in
the set before. So its projection needs no more than the common values, and all that later
projections need of its projected copies is their mean. A state therefore holds one array per
operand, in the operand's own shape: the common value of the copies, or their mean. This is
exact for solvers that only ever project (design, section 7). A cycle of more than two sets may
project a constraint twice before its producers overwrite it; its copies then exist in between.
"""

from collections.abc import Sequence
from functools import cache, partial

import jax.numpy as jnp
from jaxtyping import Array

from ..rules.constraint import Projected, squared_distance
from .base import AbstractProblem, State, per_node


class CompressedProblem(AbstractProblem):
    """Projections of a state that holds one mean per operand. Constant operands are not stored."""

    def initial(self, parameters: Sequence[Array]) -> State:
        produced = self.outputs(parameters)
        return tuple(
            (produced[index],)
            if node.constraint is None
            else self._stored(index, self.gather(index, produced.__getitem__))
            for index, node in enumerate(self.graph.nodes)
        )

    def cycle(self, sets: Sequence[tuple[int, ...]], state: State) -> tuple[State, list[Array]]:
        held: list[tuple[Array, ...]] = list(state)
        differing: dict[int, tuple[Array, ...]] = {}  # copies themselves, where needed again
        scattered: dict[int, tuple[Array, ...]] = {}  # variance of copies, while they differ
        produced: dict[int, Array] = {}
        moved: list[Array] = []
        for members, following in zip(sets, (*sets[1:], ()), strict=True):
            distances: dict[int, Array] = {}
            before, scattered_before = tuple(held), dict(scattered)
            target_means = cache(lambda node, operand, s=before: self.mean(s, node, operand))
            for index in members:
                constraint = self.graph.nodes[index].constraint
                target = None
                if constraint is None or not constraint.is_loss:
                    present_output = partial(self._output, before, index, produced)
                    target = self.target(index, target_means, present_output)
                if constraint is None:
                    assert target is not None
                    distances[index] = squared_distance(target, held[index][0])
                    held[index] = (target,)
                    produced[index] = target
                    continue
                operands = self._operands(before, index)
                if index in following or index in differing:
                    # It will be, or is, projected before all its inputs are overwritten, which
                    # takes the copies. Only a cycle of odd length in the graph leads here.
                    old = differing.get(index, constraint.expand(operands))
                    projected, differing[index] = self._project_copies(index, old, target)
                else:
                    wanted = [not x.is_constant for x in self.graph.nodes[index].operands]
                    projected = constraint.project_average(
                        operands, target, self.constant_operands(index), wanted
                    )
                distances[index] = sum(projected.moved, jnp.zeros(()))
                held[index] = tuple(mean for mean in projected.means if mean is not None)
                scattered[index] = self._scatter(
                    index, operands, projected, differing.get(index)
                )
                if projected.output is not None:
                    produced[index] = projected.output
            after = tuple(held)
            present = cache(lambda index, s=after: self._output(s, index, produced))
            fed = self.fed_by(members)
            overwritten = {index: self.gather(index, present) for index in fed}
            for index, operands in overwritten.items():
                distances[index] = self._overwritten(
                    index, operands, before[index], scattered_before.get(index)
                )
                held[index] = self._stored(index, operands)
                for former in (differing, scattered, produced):
                    former.pop(index, None)
            moved.append(per_node(self.graph, distances))
        return tuple(held), moved

    def mean(self, state: State, node: int, operand: int) -> Array:
        before = self.graph.nodes[node].operands[:operand]
        return state[node][sum(not other.is_constant for other in before)]

    def _output(self, state: State, index: int, produced: dict[int, Array]) -> Array:
        """What a node produces now: the result of its projection while its inputs stay, else forward."""
        constraint = self.graph.nodes[index].constraint
        if index in produced:
            return produced[index]
        if constraint is None:
            return state[index][0]
        return constraint.forward(self._operands(state, index), self.constant_operands(index))

    def _operands(self, state: State, index: int) -> tuple[Array, ...]:
        held = iter(state[index])
        return tuple(
            operand.gather([], self.constants) if operand.is_constant else next(held)
            for operand in self.graph.nodes[index].operands
        )

    def _stored(self, index: int, operands: tuple[Array, ...]) -> tuple[Array, ...]:
        """The operands that the state holds."""
        return tuple(
            array
            for array, operand in zip(operands, self.graph.nodes[index].operands, strict=True)
            if not operand.is_constant
        )

    def _project_copies(
        self, index: int, copies: tuple[Array, ...], target: Array | None
    ) -> tuple[Projected, tuple[Array, ...]]:
        """The projection of copies that may differ, and the projected copies."""
        node = self.graph.nodes[index]
        constraint = node.constraint
        assert constraint is not None
        new, output = constraint.project_output(copies, target, self.constant_operands(index))
        means = tuple(
            None if operand.is_constant else mean
            for operand, mean in zip(node.operands, constraint.average(new), strict=True)
        )
        moved = tuple(squared_distance(a, b) for a, b in zip(new, copies, strict=True))
        return Projected(output, means, moved), new

    def _scatter(
        self,
        index: int,
        operands: tuple[Array, ...],
        projected: Projected,
        copies: tuple[Array, ...] | None,
    ) -> tuple[Array, ...]:
        """For each operand the squared distance of its projected copies from what `held` says.

        That is their mean, or for constant operands the constant. Where the copies are not at
        hand, they all came from `operands`: it is what moved in all, less what the mean moved.
        """
        node = self.graph.nodes[index]
        if copies is not None:
            assert node.constraint is not None
            held = node.constraint.expand(
                tuple(
                    operand if mean is None else mean
                    for operand, mean in zip(operands, projected.means, strict=True)
                )
            )
            return tuple(squared_distance(a, b) for a, b in zip(copies, held, strict=True))
        return tuple(
            moved
            if mean is None
            else jnp.zeros(())
            if count == 1
            else jnp.maximum(moved - count * squared_distance(mean, operand), 0)
            for operand, mean, moved, count in zip(
                operands, projected.means, projected.moved, node.multiplicity, strict=True
            )
        )

    def _overwritten(
        self,
        index: int,
        operands: tuple[Array, ...],
        before: tuple[Array, ...],
        scattered: tuple[Array, ...] | None,
    ) -> Array:
        """The squared distance that copies move when `operands` overwrite them."""
        node = self.graph.nodes[index]
        distance = sum(scattered or (), jnp.zeros(()))
        held = iter(before)
        for new, operand, count in zip(operands, node.operands, node.multiplicity, strict=True):
            if not operand.is_constant:
                distance = distance + count * squared_distance(new, next(held))
        return distance
