"""A displacement sweep that goes through the iterations of loops in reverse, one after the other.

The sweep runs against the data: through movements by their transposes, through each constraint by its
projection. That is the order in which `jax.vjp` goes back, so the projections are given to it as the
rules of the constraints, and it carries what an iteration passes to the one before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..graph.graph import ConstraintGraph
from ..graph.ir import LOOP, Environment, Equation, Value, read, widen
from ..graph.operand import Operand, follow
from ..rules.constraint import AbstractConstraint, Arrays, Asked, squared_distances
from ..rules.losses import Loss
from .compressed import CompressedProblem
from .sweep import Sweep, step_of_losses


class Ending(NamedTuple):
    """A loss with what the forward pass gives it."""

    constraint: AbstractConstraint
    operands: Arrays
    constants: Arrays


def reverse_displacements(
    graph: ConstraintGraph, constants: Environment, parameters: Sequence[Array], settings: Sweep
) -> list[Array | None]:
    """As `sweep.displacements`, with full credit through loops; the graph has them as `ir.LOOP`."""

    def reached(parameters: list[Array]) -> Array:
        endings = _forward(graph, constants, parameters, settings)
        return sum((_pulled(ending, settings.lam) for ending in endings), jnp.zeros(()))

    _, back = jax.vjp(reached, list(parameters))
    (changes,) = back(jnp.ones(()))
    unit = step_of_losses(graph, settings)
    return [
        None if node is None else change / unit
        for node, change in zip(graph.parameters, changes, strict=True)
    ]


def forward_gaps(
    graph: ConstraintGraph, constants: Environment, parameters: Sequence[Array]
) -> list[Float[Array, ""]]:
    """For each loss the squared distance by which its projection moves what the forward pass gives it."""
    return [
        squared_distances(constraint.project(operands, None, given), operands)
        for constraint, operands, given in _forward(graph, constants, parameters, None)
    ]


def _forward(
    graph: ConstraintGraph, constants: Environment, parameters: Sequence[Array], settings: Sweep | None
) -> list[Ending]:
    """The losses after a forward pass; with settings, one that sweeps when `jax.vjp` goes back."""
    values: Environment = dict(zip(graph.function.parameters, map(widen, parameters), strict=True))
    return _Pass(graph, constants, values, set(values), settings).run()


@dataclass
class _Pass:
    """A forward pass.

    - `values`: in the dtypes of states; those of the parameters to start with.
    - `weighty`: those that are made of parameters only.
    """

    graph: ConstraintGraph
    constants: Environment
    values: Environment
    weighty: set[Value]
    settings: Sweep | None

    def run(self) -> list[Ending]:
        """Evaluates every node; returns the losses."""
        problem = CompressedProblem(self.graph, self.constants)
        endings = []
        for index, node in enumerate(self.graph.nodes):
            if node.constraint is None:
                continue
            operands = tuple(map(self.read, node.operands))
            constants = problem.constant_operands(index)
            if node.output is None:
                endings.append(Ending(node.constraint, operands, constants))
                continue
            evaluate: Callable[[Arrays, Arrays], Array] = node.constraint.forward
            if self.settings is not None:
                weights = [
                    self.settings.weight if operand.value in self.weighty else None
                    for operand in node.operands
                ]
                wanted = [not operand.is_constant for operand in node.operands]
                evaluate = _projecting(node.constraint, wanted, weights)
            with node.scope():
                self.values[node.output] = evaluate(operands, constants)
        return endings

    def read(self, operand: Operand) -> Array:
        """An operand, after the movements that make it."""
        if operand.is_constant:
            return widen(jnp.asarray(read(self.constants, operand.value)))
        for equation in operand.path:
            if equation.outputs[0] in self.values:
                continue
            loops = equation.primitive is LOOP
            follow(equation, self.values, self.constants, self._loop(equation) if loops else None)
            moved = [value for value in equation.inputs if value in self.values]
            if not loops and self.weighty.issuperset(moved):
                self.weighty.update(equation.outputs)
        return self.values[operand.value]

    def _loop(self, equation: Equation) -> Callable[..., list[Array]]:
        """The loop of an equation, each iteration a pass of its own."""
        body, graph = equation.params["body"], self.graph.bodies[equation]
        function = graph.function
        weighty = {
            inside
            for inside, outside in zip(body.inputs, equation.inputs, strict=True)
            if outside in self.weighty and inside not in body.starts
        }

        def iteration(environment: Environment) -> list[Array]:
            constants = graph.constants([environment[value] for value in function.data], [])
            values = {value: environment[value] for value in function.parameters}
            iteration = _Pass(graph, constants, values, set(weighty), self.settings)
            iteration.run()
            return [iteration.read(end) for end in graph.ends]

        return lambda *arrays: body.run(iteration, arrays)


def _projecting(
    constraint: AbstractConstraint, wanted: Sequence[bool], weights: Sequence[float | None]
) -> Callable[[Arrays, Arrays], Array]:
    """A constraint's value, of which `jax.vjp` takes the displacements of the operands."""

    @jax.custom_vjp
    def value(operands: Arrays, constants: Arrays) -> Array:
        return constraint.forward(operands, constants)

    def forward(operands: Arrays, constants: Arrays) -> tuple[Array, tuple[Arrays, Array, Arrays]]:
        output = constraint.forward(operands, constants)
        return output, (operands, output, constants)

    def back(saved: tuple[Arrays, Array, Arrays], change: Array) -> tuple[Arrays, None]:
        operands, output, constants = saved
        moves, damping = constraint.displace(Asked(operands, output, change, constants, wanted, weights))
        return tuple(
            jnp.zeros_like(operand) if move is None else move * damping
            for operand, move in zip(operands, moves, strict=True)
        ), None

    value.defvjp(forward, back)
    return value


def _pulled(ending: Ending, lam: float) -> Array:
    """Zero, of which `jax.vjp` takes what the loss moves its operand by."""
    constraint, operands, constants = ending
    assert isinstance(constraint, Loss)

    @jax.custom_vjp
    def value(operands: Arrays, constants: Arrays) -> Array:
        return jnp.zeros(())

    def back(saved: tuple[Arrays, Arrays], change: Array) -> tuple[Arrays, None]:
        operands, constants = saved
        return ((change * constraint.pull(operands, constants, lam)).astype(operands[0].dtype),), None

    value.defvjp(lambda operands, constants: (jnp.zeros(()), (operands, constants)), back)
    return value(operands, constants)
