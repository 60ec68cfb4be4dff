"""The consensus form: all copies agree with a forward pass, and only parameters are stored."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..errors import ArgumentError, GraphError
from ..graph.graph import Use
from ..graph.ir import LOOP, widen
from .base import AbstractProblem, Readout, Thing, per_node
from .placement import State
from .reverse import forward_gaps, reverse_displacements
from .sweep import Sweep


class ConsensusProblem(AbstractProblem):
    """Every operation's constraint holds: what is left to satisfy are the losses.

    The state holds each parameter, and nothing of constraints. Loops of the graph are `ir.LOOP`.
    """

    def initial(self, parameters: Sequence[Array]) -> State:
        values = dict(zip(self.graph.parameters, map(widen, parameters), strict=True))
        return tuple((values[index],) if index in values else () for index in range(len(self.graph.nodes)))

    def arrange(
        self, outputs: Sequence[Thing], copies: Sequence[tuple[Thing, ...]]
    ) -> tuple[tuple[Thing, ...], ...]:
        raise ArgumentError("placement: the consensus form has none; divide the parameters and the data")

    def sweep(self, state: State, settings: Sweep) -> tuple[State, Float[Array, " nodes"]]:
        """From the losses, which move the outputs, through every operation back to the parameters.

        **Returns:** the displacements of the parameters as `sweep.displacements` counts them, and for each
        loss the squared distance by which its projection moves what the forward pass gives.
        """
        given = self._all(state)
        found = reverse_displacements(self.graph, self.constants, given, settings)
        gaps = forward_gaps(self.graph, self.constants, given)
        moves = [tuple(map(jnp.zeros_like, arrays)) for arrays in state]
        for index, move in zip(self.graph.parameters, found, strict=True):
            if index is not None and move is not None:
                moves[index] = (move.astype(state[index][0].dtype),)
        return tuple(moves), per_node(self.graph, dict(zip(self.graph.losses, gaps, strict=True)))

    def cycle(self, state: State) -> tuple[State, list[Array]]:
        moves, squared = self.sweep(state, Sweep())
        return jax.tree.map(lambda x, move: x + move, state, moves), [squared]

    def means(self, state: State) -> Callable[[Use], Array]:
        if any(equation.primitive is LOOP for equation in self.graph.function.equations):
            raise GraphError("means: the consensus form keeps none of what is inside a loop")
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
