"""The compressed form: copies that are equal by construction are never stored.

When a constraint is projected, all its copies agree, because its producers overwrote them in
the set before. So its projection needs no more than the common values, and all that later
projections need of its projected copies is their mean. A state therefore holds one array per
use of a producer, in the producer's own shape: the common value of all copies of each element,
or their mean. This is exact for solvers that only ever project (design, section 7). A cycle of
more than two sets may project a constraint twice before its producers overwrite it; its copies
then exist in between.

Where the last thing that happens in a cycle to a use is that its producer overwrites it, it holds
what the producer produces. That is stored once, with the producer.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache, cached_property, partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..graph.graph import Use
from ..graph.operand import Operand
from ..primitives import squared_norm
from ..rules.constraint import Count, Number, Projected, squared_distance
from ..rules.linear import divided, layout
from .base import AbstractProblem, Thing, per_node
from .placement import State

Inputs = tuple[Array, ...]  # one array per use of a producer, operand after operand


class CompressedProblem(AbstractProblem):
    """Projections of a state that holds one mean per use of a producer. Constants are not stored.

    The state of a parameter is its own variable; that of a constraint its means, operand after
    operand, without those that equal what their producers produce; then what it produces
    itself, if another node reads that.
    """

    def initial(self, parameters: Sequence[Array]) -> State:
        produced = self.outputs(parameters)
        held: list[Inputs] = [
            (produced[index],) if node.constraint is None else self._inputs(index, produced.__getitem__)
            for index, node in enumerate(self.graph.nodes)
        ]
        return self._pack(held)

    def arrange(
        self, outputs: Sequence[Thing], copies: Sequence[tuple[Thing, ...]]
    ) -> tuple[tuple[Thing, ...], ...]:
        return self._pack(
            [
                (outputs[index],)
                if node.constraint is None
                else tuple(outputs[producer] for producer in self._slots(index))
                for index, node in enumerate(self.graph.nodes)
            ]
        )

    @cached_property
    def _readers(self) -> dict[int, tuple[tuple[int, int], ...]]:
        """The inputs (consumer, slot) that hold what each node produces after a cycle."""
        nodes = self.graph.nodes
        version = [0] * len(nodes)  # of what each node produces
        read: dict[tuple[int, int], tuple[int, int]] = {}  # input -> (producer, version)
        overwritten: Iterable[int] = range(len(nodes))
        for members in (None, *self.graph.sets):
            if members is not None:
                for index in members:
                    version[index] += 1
                    for slot in range(len(self._slots(index))):
                        read.pop((index, slot), None)
                overwritten = self.fed_by(members)
            for index in overwritten:
                for slot, producer in enumerate(self._slots(index)):
                    read[index, slot] = producer, version[producer]
            for index in overwritten:
                version[index] += members is not None
        readers: dict[int, list[tuple[int, int]]] = {}
        chosen: dict[int, int] = {}
        for place, (producer, number) in read.items():
            if nodes[producer].constraint is None:
                chosen[producer] = version[producer]  # its own variable is stored anyhow
            if chosen.setdefault(producer, number) == number:
                readers.setdefault(producer, []).append(place)
        return {producer: tuple(places) for producer, places in readers.items()}

    def _pack(self, held: Sequence[tuple[Thing, ...]]) -> tuple[tuple[Thing, ...], ...]:
        """The arrays of all nodes without duplicates."""
        read = {place for places in self._readers.values() for place in places}
        state = []
        for index, inputs in enumerate(held):
            arrays = [x for slot, x in enumerate(inputs) if (index, slot) not in read]
            if index in self._readers and self.graph.nodes[index].constraint is not None:
                consumer, slot = self._readers[index][0]
                arrays.append(held[consumer][slot])
            state.append(tuple(arrays))
        return tuple(state)

    def _unpack(self, state: State) -> list[Inputs]:
        """The inverse of `_pack`."""
        source = {
            place: state[producer][-1] for producer, places in self._readers.items() for place in places
        }
        held: list[Inputs] = []
        for index, arrays in enumerate(state):
            if self.graph.nodes[index].constraint is None:
                held.append(arrays)
                continue
            rest = iter(arrays)
            places = [(index, slot) for slot in range(len(self._slots(index)))]
            held.append(tuple(source[x] if x in source else next(rest) for x in places))
        return held

    def _slots(self, index: int) -> tuple[int, ...]:
        """The producers of a node's inputs, operand after operand."""
        return tuple(
            producer for operand in self.graph.nodes[index].operands for producer in operand.producers
        )

    def cycle(self, state: State) -> tuple[State, list[Array]]:
        held = self._unpack(state)
        differing: dict[int, tuple[Array, ...]] = {}  # copies themselves, where needed again
        scattered: dict[int, list[Array]] = {}  # its terms: squared distance of all copies from `held`
        produced: dict[int, Array] = {}
        moved: list[Array] = []
        for members, following in zip(self.graph.sets, (*self.graph.sets[1:], ()), strict=True):
            distances: dict[int, list[Array]] = {}  # the terms of each
            before, scattered_before = tuple(held), dict(scattered)
            means = self._means(before)
            for index in members:
                constraint = self.graph.nodes[index].constraint
                target = None
                if constraint is None or not constraint.is_loss:
                    target = self.target(index, means, partial(self._output, before, index, produced))
                if constraint is None:
                    assert target is not None
                    distances[index] = [squared_distance(target, held[index][0])]
                    held[index] = (target,)
                    produced[index] = target
                    continue
                chosen = None if self.placement is None else self.placement.layout(index)
                operands = self._operands(index, before[index], chosen)
                if index in following or index in differing:
                    # It will be, or is, projected before all its inputs are overwritten, which
                    # takes the copies. Only a cycle of odd length in the graph leads here.
                    copies = differing.get(index, constraint.expand(operands))
                    projected, differing[index] = self._project_copies(index, copies, target)
                    held[index] = tuple(
                        mean
                        for position, array in enumerate(constraint.average(differing[index]))
                        for mean in self.mean_over_uses(index, position, array)
                    )
                    scattered[index] = [self._scatter_of_copies(index, differing[index], held[index])]
                else:
                    wanted = [not x.is_constant for x in self.graph.nodes[index].operands]
                    with self.graph.nodes[index].scope():
                        resets = divided.set(self.placement is not None), layout.set(chosen)
                        try:
                            projected = constraint.project_average(
                                operands, target, self.constant_operands(index), wanted
                            )
                        finally:
                            divided.reset(resets[0])
                            layout.reset(resets[1])
                        held[index], scattered[index] = self._displaced(index, before[index], projected)
                distances[index] = [projected.moved]
                if projected.output is not None:
                    produced[index] = projected.output
            after = tuple(held)
            present = cache(lambda index, s=after: self._output(s, index, produced))
            overwritten = {index: self._inputs(index, present) for index in self.fed_by(members)}
            for index, inputs in overwritten.items():
                apart = self._distance(index, inputs, before[index])
                distances[index] = [*scattered_before.get(index, ()), *apart]
                held[index] = inputs
                for former in (differing, scattered, produced):
                    former.pop(index, None)
            moved.append(per_node(self.graph, distances))
        return self._pack(held), moved

    def means(self, state: State) -> Callable[[Use], Array]:
        return self._means(self._unpack(state))

    def _means(self, held: Sequence[Inputs]) -> Callable[[Use], Array]:
        return lambda use: self._of_operand(use.consumer, use.operand, held[use.consumer])[use.input]

    def _inputs(self, index: int, produced: Callable[[int], Array]) -> Inputs:
        """What a node's producers produce, for each of its inputs."""
        return tuple(produced(producer) for producer in self._slots(index))

    def _of_operand(self, index: int, operand: int, inputs: Inputs) -> Inputs:
        """The part of a node's inputs that belongs to one operand."""
        operands = self.graph.nodes[index].operands
        start = sum(len(other.producers) for other in operands[:operand])
        return inputs[start : start + len(operands[operand].producers)]

    def _operands(self, index: int, inputs: Inputs, chosen: Any = None) -> tuple[Array, ...]:
        """The operands of a constraint, where it needs them; with a layout of a product, where that does."""
        node = self.graph.nodes[index]
        operands = tuple(
            operand.gather(self._of_operand(index, position, inputs), self.constants)
            for position, operand in enumerate(node.operands)
        )
        return (
            self.place_operands(index, operands)
            if chosen is None
            else chosen.place(operands, node.constraint)
        )

    def _output(self, held: Sequence[Inputs], index: int, produced: dict[int, Array]) -> Array:
        """What a node produces now: the result of its projection while its inputs stay, else forward."""
        constraint = self.graph.nodes[index].constraint
        if index in produced:
            return produced[index]
        if constraint is None:
            return held[index][0]
        return constraint.forward(self._operands(index, held[index]), self.constant_operands(index))

    def _displaced(self, index: int, inputs: Inputs, projected: Projected) -> tuple[Inputs, list[Array]]:
        """The means of projected copies, and the terms of the squared distance of the copies from them.

        It has two parts, of differences that are formed: that of the copies from the means of their
        operands, and that of these from the means over all uses of an element within the operand. Copies
        of constants are at a distance of what they moved.
        """
        means: list[Array] = []
        node, weights = self.graph.nodes[index], self._weights(index)
        distance = [] if projected.scatter is None else [projected.scatter]
        displacements = self.place_means(index, projected.displacements)
        for position, displacement in enumerate(displacements):
            if displacement is None:
                continue
            moves = self.mean_over_uses(index, position, displacement)
            old = self._of_operand(index, position, inputs)
            means += [mean + move for mean, move in zip(old, moves, strict=True)]
            operand, copies = node.operands[position], node.multiplicity[position]
            if operand.path or len(moves) > 1:
                apart = displacement - self._spread(operand, moves)
                distance.append(_weighted(weights[position], apart, copies))
        return tuple(means), distance

    def _spread(self, operand: Operand, moves: Sequence[Array]) -> Array:
        """Displacements of an operand's inputs where elements come from them; zero where from constants."""
        nothing = [jnp.zeros_like(move) for move in moves]
        moved, still = (operand.gather(list(x), self.constants) for x in (moves, nothing))
        return moved - still

    def _distance(self, index: int, new: Inputs, old: Inputs) -> list[Array]:
        """The terms of the squared distance over all copies of two sets of inputs."""
        distance = []
        weights = self._weights(index)
        for position in range(len(self.graph.nodes[index].operands)):
            pairs = zip(
                self._of_operand(index, position, new),
                self._of_operand(index, position, old),
                self.copies(index, position),
                strict=True,
            )
            for a, b, count in pairs:
                if a is b:  # a producer with this use alone took over its mean
                    continue
                distance.append(_weighted(weights[position], a - b, count))
        return distance

    def _weights(self, index: int) -> tuple[Number, ...]:
        """The weights of a constraint's operands in the distance."""
        node = self.graph.nodes[index]
        assert node.constraint is not None
        return node.constraint.weights_of(len(node.operands))

    def _project_copies(
        self, index: int, copies: tuple[Array, ...], target: Array | None
    ) -> tuple[Projected, tuple[Array, ...]]:
        """The projection of copies that may differ, and the projected copies."""
        constraint = self.graph.nodes[index].constraint
        assert constraint is not None
        with self.graph.nodes[index].scope():
            new, output = constraint.project_output(copies, target, self.constant_operands(index))
        return Projected(output, (None,) * len(new), constraint.squared_between(new, copies)), new

    def _scatter_of_copies(self, index: int, copies: tuple[Array, ...], inputs: Inputs) -> Array:
        """The squared distance of copies from the means `inputs`; of constants, from the constants."""
        constraint = self.graph.nodes[index].constraint
        assert constraint is not None
        held = constraint.expand(self._operands(index, inputs))
        return constraint.squared_between(copies, held)


def _weighted(weight: Number, x: Array, count: Array | Count) -> Array:
    """The squared norm when each element counts `count` times, by its weight."""
    squared = _squared_norm(x, count)
    return squared if isinstance(weight, int) and weight == 1 else weight * squared


def _squared_norm(x: Array, count: Array | Count) -> Array:
    if isinstance(count, int | Array):
        return squared_norm(x, count)
    # Little is read where little counts, and counts are never as large as the array.
    for axis, length in enumerate(count.shape):
        used = np.nonzero(count.any(tuple(i for i in range(count.ndim) if i != axis)))[0]
        if 2 * len(used) <= length > 1:
            part = (*(slice(None),) * axis, slice(used[0], used[-1] + 1) if len(used) else slice(0))
            x, count = x[part], count[part]
    same = tuple(axis for axis, length in enumerate(count.shape) if length == 1)
    return jnp.sum(jnp.sum(jnp.square(x), same, keepdims=True) * count.astype(x.dtype))
