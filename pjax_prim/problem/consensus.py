"""The consensus form: all copies agree with a forward pass, and only parameters are stored."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._compat import close_jaxpr
from ..errors import ArgumentError
from ..graph.graph import Use
from ..graph.ir import widen
from ..pullbacks import WEIGHT, directions, settings_of
from .base import AbstractProblem, Readout, Thing, per_node
from .placement import State


class ConsensusProblem(AbstractProblem):
    """Every operation's constraint holds: what is left to satisfy are the losses.

    The state holds each parameter, and nothing of constraints.
    """

    def initial(self, parameters: Sequence[Array]) -> State:
        values = dict(zip(self.graph.parameters, map(widen, parameters), strict=True))
        return tuple((values[index],) if index in values else () for index in range(len(self.graph.nodes)))

    def arrange(
        self, outputs: Sequence[Thing], copies: Sequence[tuple[Thing, ...]]
    ) -> tuple[tuple[Thing, ...], ...]:
        raise ArgumentError("placement: the consensus form has none; divide the parameters and the data")

    def displace(self, state: State, lam: Any, weight: Any) -> tuple[State, Float[Array, " nodes"]]:
        """From the losses, which move the outputs, through every operation back to the parameters.

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
        settings = settings_of(closed, lam, weight)
        _, found = directions(closed, given, others, settings, function.program.results)
        moves = [tuple(map(jnp.zeros_like, arrays)) for arrays in state]
        for index, move in zip(self.graph.parameters, found, strict=True):
            if index is not None:
                moves[index] = (-move.astype(state[index][0].dtype),)
        return tuple(moves), per_node(
            self.graph, dict(zip(self.graph.losses, self.forward_gaps(given), strict=True))
        )

    def cycle(self, state: State) -> tuple[State, list[Array]]:
        moves, squared = self.displace(state, None, WEIGHT)
        return jax.tree.map(lambda x, move: x + move, state, moves), [squared]

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
        """Own variable and consensus are one."""
        return [None if index is None else state[index][0] for index in self.graph.parameters]
