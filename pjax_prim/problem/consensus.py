"""The consensus form: all copies agree with a forward pass, and only parameters are stored."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._compat import close_jaxpr
from ..errors import ArgumentError
from ..graph.graph import Use
from ..graph.ir import widen
from ..primitives import squared_norm
from ..pullbacks import WEIGHT, directions, settings_of
from .base import AbstractProblem, Readout, Thing, per_node
from .placement import State

HALVINGS = 10
"""So often a move is halved that does not make the gap smaller."""


class ConsensusProblem(AbstractProblem):
    """A problem in which every operation's constraint holds, so that only the losses are left to satisfy.

    The state holds each parameter, and nothing of constraints.
    """

    sums_terms: ClassVar[bool] = True

    def initial(self, parameters: Sequence[Array]) -> State:
        values = dict(zip(self.graph.parameters, map(widen, parameters), strict=True))
        return tuple((values[index],) if index in values else () for index in range(len(self.graph.nodes)))

    def arrange(
        self, outputs: Sequence[Thing], copies: Sequence[tuple[Thing, ...]]
    ) -> tuple[tuple[Thing, ...], ...]:
        raise ArgumentError("placement: the consensus form has none; divide the parameters and the data")

    def restricted(self, state: State) -> State:
        """The parameters at the nearest points of their sets."""
        return tuple(tuple(self.restrict(i, x) for x in arrays) for i, arrays in enumerate(state))

    def displace(self, state: State, lam: Any, weight: Any) -> tuple[State, Float[Array, " nodes"]]:
        """Goes from the losses, which move the outputs, through every operation back to the parameters.

        **Returns:** the displacements of the parameters, as those of `pjp.displacement`, and for each loss
        the squared distance by which its projection moves what the forward pass gives.
        """
        given = self._all(state)
        function = self.graph.function
        captured, others = (
            [self.constants[x] for x in values] for values in (function.captured, function.data)
        )
        assert function.program is not None
        closed = close_jaxpr(function.program.jaxpr, captured)
        settings = replace(settings_of(closed, lam, weight), loops=True)
        _, found = directions(closed, given, others, settings, function.program.results)
        moves = [tuple(map(jnp.zeros_like, arrays)) for arrays in state]
        for index, move in zip(self.graph.parameters, found, strict=True):
            if index is not None:
                moves[index] = (-move.astype(state[index][0].dtype),)
        return tuple(moves), per_node(self.graph, _one_each(self.graph.losses, self.forward_gaps(given)))

    def approach(self, state: State, iterations: Any) -> tuple[State, Float[Array, " nodes"]]:
        """The least move of all parameters after which, to first order, the losses have what they ask for.

        It takes so many steps of conjugate gradients for the least squares problem (CGLS) from zero. The move
        is halved until the gap is below that of `state`, at most `HALVINGS` times; else there is none. It
        leads to the nearest points of the sets that parameters are restricted to.

        **Returns:** the new state, and of it for each loss the squared distance by which its projection moves
        what the forward pass gives.
        """
        given = self._all(state)
        reached, forward = jax.linearize(self.reached, given)
        backward = jax.linear_transpose(forward, given)
        asked = [
            tuple(p.astype(y.dtype) - y for p, y in zip(self._project_loss(loss, ys), ys, strict=True))
            for loss, ys in zip(self.graph.losses, reached, strict=True)
        ]
        before = list(map(_square, asked))
        wanted = jax.tree.map(jnp.add, reached, asked)
        move = _least_squares(forward, lambda left: backward(left)[0], asked, iterations)

        one = jnp.ones((), jnp.result_type(float))
        # A number that is to be small asks for as much wherever it is: what it asked for here counts.
        asks_for_ever = [self._has_opposite(loss) for loss in self.graph.losses]

        def moved(share: Array) -> tuple[list[Array], list[Array]]:
            new = jax.tree.map(lambda x, d: x + (share * d).astype(x.dtype), given, move)
            new = list(map(self.restrict, self.graph.parameters, new))
            return new, self.forward_gaps(new)

        def falls(new: list[Array], gaps: list[Array]) -> Array:
            if any(asks_for_ever):
                left = zip(asks_for_ever, gaps, self.reached(new), wanted, strict=True)
                gaps = [_square(_add(y, -one, w)) if ever else gap for ever, gap, y, w in left]
            return sum(gaps, jnp.zeros(())) < sum(before, jnp.zeros(()))

        def halve(carry: Any) -> Any:
            count, share, _ = carry
            share = jnp.where(count + 1 < HALVINGS, share / 2, 0)
            return count + 1, share, moved(share)

        _, _, (new, gaps) = jax.lax.while_loop(
            lambda carry: (carry[0] < HALVINGS) & ~falls(*carry[2]),
            halve,
            (jnp.zeros((), jnp.int32), one, moved(one)),
        )
        values = dict(zip(self.graph.parameters, new, strict=True))
        arrays = tuple((values[index],) if index in values else () for index in range(len(state)))
        return arrays, per_node(self.graph, _one_each(self.graph.losses, gaps))

    def _has_opposite(self, loss: int) -> bool:
        constraint = self.graph.nodes[loss].constraint
        return constraint is not None and constraint.has_opposite

    def cycle(self, state: State) -> tuple[State, list[Array]]:
        moves, squared = self.displace(state, None, WEIGHT)
        return self.restricted(jax.tree.map(lambda x, move: x + move, state, moves)), [squared]

    def means(self, state: State) -> Callable[[Use], Array]:
        produced = self.outputs(self._all(state))
        return lambda use: produced[self.graph.nodes[use.consumer].operands[use.operand].producers[use.input]]

    def _all(self, state: State) -> list[Array]:
        """All parameters of the function; zeros for those that reach no loss."""
        return [
            jnp.zeros(value.shape, value.dtype) if index is None else state[index][0]
            for index, value in zip(self.graph.parameters, self.graph.function.parameters, strict=True)
        ]

    def parameters(self, state: State, readout: Readout) -> list[Array | None]:
        """The parameters; their own variables and their consensus are one."""
        return [None if index is None else state[index][0] for index in self.graph.parameters]


def _one_each(nodes: Sequence[int], values: Sequence[Array]) -> dict[int, tuple[Array]]:
    return {node: (value,) for node, value in zip(nodes, values, strict=True)}


def _least_squares(
    forward: Callable[[Any], Any], backward: Callable[[Any], Any], target: Any, iterations: Any
) -> Any:
    """x of small |forward(x) - target|: so many steps of conjugate gradients from zero (CGLS).

    **Arguments:** `backward`, the transpose of the linear function `forward`.
    """

    def step(_: Any, carry: Any) -> Any:
        x, left, direction, square = carry
        along = forward(direction)
        length = _ratio(square, _square(along))
        x = _add(x, length, direction)
        left = _add(left, -length, along)
        pulled = backward(left)
        new = _square(pulled)
        return x, left, _add(pulled, _ratio(new, square), direction), new

    first = backward(target)
    zero = jax.tree.map(jnp.zeros_like, first)
    x, *_ = jax.lax.fori_loop(0, iterations, step, (zero, target, first, _square(first)))
    return x


def _square(tree: Any) -> Array:
    return sum(map(squared_norm, jax.tree.leaves(tree)), jnp.zeros(()))


def _ratio(a: Array, b: Array) -> Array:
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)


def _add(x: Any, factor: Array, y: Any) -> Any:
    return jax.tree.map(lambda a, b: a + factor.astype(a.dtype) * b, x, y)
