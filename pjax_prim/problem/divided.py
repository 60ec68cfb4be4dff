"""The divided form: every constraint has copies of all it touches, its output too, and a metric."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..errors import ArgumentError
from ..graph.graph import Use
from ..restrictions import AbstractRestriction
from ..rules.constraint import Number
from ..rules.losses import Equality
from .base import AbstractProblem, Thing, per_node
from .placement import State


class DividedProblem(AbstractProblem):
    """Two sets for any graph. In set A every constraint holds on its own copies, outputs included. In set B
    all copies of a value agree, with the value that hard labels (`pjp.equality`) give where they touch it.

    The state holds for a parameter its consensus, and for a constraint its copies of the operands, its
    output, and its metric: the weights of the distances of its elementary constraints
    (`AbstractConstraint.elements`). Hard labels hold nothing: they belong to B. With the metrics fixed, the
    arrays of constraints but for the metrics are a vector space.

    Divide and concur: Gravel and Elser, 2008.
    """

    def initial(self, parameters: Sequence[Array]) -> State:
        produced = self.outputs(parameters)
        return tuple(self._state(index, produced) for index in range(len(self.graph.nodes)))

    def arrange(
        self, outputs: Sequence[Thing], copies: Sequence[tuple[Thing, ...]]
    ) -> tuple[tuple[Thing, ...], ...]:
        raise ArgumentError("placement: the divided form has none; pjp.solve_starts divides starts instead")

    def project(self, state: State, known: bool = False) -> State:
        """Projects onto set A; with `known`, outputs of threshold neurons with a hard label are that."""
        return tuple(self._project_node(index, arrays, known) for index, arrays in enumerate(state))

    def concur(
        self, state: State, restrict: Callable[[str], AbstractRestriction | None] = lambda name: None
    ) -> State:
        """Projects onto set B; `restrict` gives the restriction of a parameter by its name, where the problem
        has none."""
        produced: dict[int, Array] = {}
        for index, node in enumerate(self.graph.nodes):
            if node.output is None:
                continue
            value = self.consensus(index, state)
            restriction = self.restrictions.get(index)
            if restriction is None and node.constraint is None:
                restriction = restrict(node.name)
            if restriction is not None:
                value = restriction.project(value)
            produced[index] = value
        return tuple(
            self._state(index, produced, arrays[-1] if arrays else None) for index, arrays in enumerate(state)
        )

    def consensus(self, node: int, state: State) -> Array:
        """The mean of all copies of what a node produces, weighted by the metrics, or its hard label."""
        uses = self.graph.uses[node]
        own = state[node][0]
        total: Array | float = 0.0
        weight: Array | float = 0.0
        if self.graph.nodes[node].constraint is not None:
            *_, own, metric = state[node]
            weight = _spread_metric(metric, own)
            total = weight * own
        for use in uses:
            if not self._is_given(use.consumer):
                sums, weights = self._sums(use, state)
                total, weight = total + sums, weight + weights
        used = jnp.asarray(weight) > 0
        value = jnp.where(used, total / jnp.where(used, weight, 1), own)
        return self._labelled(node, value)

    def _labelled(self, node: int, value: Array, scale: float = 1.0) -> Array:
        """A value with hard labels, times `scale`, where a node has them."""
        for use in self.graph.uses[node]:
            if not self._is_given(use.consumer):
                continue
            labels, step = self.constant_operands(use.consumer)
            some = jnp.broadcast_to(step[..., None] > 0, labels.shape)
            counts = self.copies(use.consumer, use.operand)[use.input]
            label, given_part = (
                self.mean_over_uses(use.consumer, use.operand, x)[use.input]
                for x in (jnp.where(some, labels, 0), some.astype(labels.dtype))
            )
            has_label = (jnp.asarray(counts) > 0) & (given_part > 0)
            value = jnp.where(has_label, scale * label / jnp.where(has_label, given_part, 1), value)
        return value

    def adapt(self, state: State, squared: State, rate: Number) -> State:
        """Moves metrics towards the gap of their constraint over the mean of all: g += rate (gap/mean - g).

        **Arguments:** `squared`, for each constraint an array of squared gaps of its metric's shape.
        """
        gaps = [tuple(jnp.sqrt(x) for x in arrays) for arrays in squared]
        flat = [x for arrays in gaps for x in arrays]
        mean = jnp.sum(jnp.stack([jnp.sum(x) for x in flat])) / sum(x.size for x in flat)
        scale = rate / jnp.maximum(mean, jnp.finfo(mean.dtype).tiny)
        return tuple(
            (*arrays[:-1], (1 - rate) * arrays[-1] + scale * gap[0]) if gap else arrays
            for arrays, gap in zip(state, gaps, strict=True)
        )

    def squared_distances(self, a: State, b: State) -> State:
        """Gives for each constraint the squared distances of its elementary ones, in its metric's shape."""
        return tuple(
            (_squared(x[:-1], y[:-1], x[-1].ndim),) if self.is_divided(index) else ()
            for index, (x, y) in enumerate(zip(a, b, strict=True))
        )

    def total(self, squared: State) -> Float[Array, " nodes"]:
        """Squared distances summed over each node."""
        return per_node(self.graph, {i: (jnp.sum(arrays[0]),) for i, arrays in enumerate(squared) if arrays})

    def is_divided(self, node: int) -> bool:
        """Whether a node is a constraint with copies of its own."""
        return self.graph.nodes[node].constraint is not None and not self._is_given(node)

    def cycle(self, state: State) -> tuple[State, list[Array]]:
        projected = self.project(state)
        agreed = self.concur(projected)
        moved = (self.squared_distances(state, projected), self.squared_distances(projected, agreed))
        return agreed, [self.total(x) for x in moved]

    def means(self, state: State) -> Callable[[Use], Array]:
        def mean(use: Use) -> Array:
            sums, weights = self._sums(use, state)
            return sums / jnp.where(weights > 0, weights, 1)

        return mean

    def parameters(self, state: State, readout: str) -> list[Array | None]:
        """The consensus of the last shadow, or with `readout` "governing" that of the copies as they are."""
        return [
            None if node is None else state[node][0] if readout == "shadow" else self.consensus(node, state)
            for node in self.graph.parameters
        ]

    def _state(
        self, index: int, produced: dict[int, Array], metric: Array | None = None
    ) -> tuple[Array, ...]:
        node = self.graph.nodes[index]
        if node.constraint is None:
            return (produced[index],)
        if self._is_given(index):
            return ()
        copies = node.constraint.expand(self.gather(index, produced.__getitem__))
        if metric is None:
            metric = jnp.ones(node.constraint.elements([x.shape for x in copies]), copies[0].dtype)
        return (*copies, *((produced[index],) if node.output is not None else ()), metric)

    def _project_node(self, index: int, arrays: tuple[Array, ...], known: bool) -> tuple[Array, ...]:
        node = self.graph.nodes[index]
        if node.constraint is None or not arrays:
            return arrays
        constants = self.constant_operands(index)
        if node.output is None:
            *copies, metric = arrays
            with node.scope():
                return (*node.constraint.project(tuple(copies), None, constants), metric)
        *copies, output, metric = arrays
        if known and node.constraint.takes_labels:
            output = self._labelled(index, output, _FAR)
        with node.scope():
            projected, value = node.constraint.project_output(tuple(copies), output, constants)
        assert value is not None
        return (*projected, value, metric)

    def _sums(self, use: Use, state: State) -> tuple[Array, Array]:
        """The sums over the copies of one use of metric times value, and of the metrics."""
        node = self.graph.nodes[use.consumer]
        assert node.constraint is not None
        *arrays, metric = state[use.consumer]
        copies = arrays[: len(node.stored)]
        spread = [_spread_metric(metric, x) for x in copies]

        def back(copies: Sequence[Array]) -> Array:
            assert node.constraint is not None
            mean = node.constraint.average(tuple(copies))[use.operand]
            operand = node.operands[use.operand]
            whole = jnp.broadcast_to(mean * node.multiplicity[use.operand], operand.value.shape)
            return operand.spread(whole, self.constants)[use.input]

        return back([g * x for g, x in zip(spread, copies, strict=True)]), back(
            [
                jnp.broadcast_to(g, (*metric.shape, *x.shape[metric.ndim :]))
                for g, x in zip(spread, copies, strict=True)
            ]
        )

    def _is_given(self, node: int) -> bool:
        return isinstance(self.graph.nodes[node].constraint, Equality)


_FAR = 1e6
"""A queried output so far out leaves one of the two signs, whatever inputs and weights cost."""


def _spread_metric(metric: Array, array: Array) -> Array:
    """A metric as an array that broadcasts to copies or to outputs."""
    return metric.reshape(metric.shape + (1,) * (array.ndim - metric.ndim))


def _squared(a: Sequence[Array], b: Sequence[Array], kept: int) -> Array:
    """The squared distance of arrays, summed over all axes but the first `kept`."""
    total: Array | float = 0.0
    for x, y in zip(a, b, strict=True):
        total = total + jnp.sum(jnp.square(x - y), tuple(range(kept, x.ndim)))
    return jnp.asarray(total)
