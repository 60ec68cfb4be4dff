"""One sweep of projections from the losses to the parameters, for a direction to move them in."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..graph import ConstraintGraph
from ..rules.constraint import Asked
from ..rules.losses import Loss
from .base import AbstractProblem

LAM = 0.0003
"""The step of the losses by default."""

WEIGHT = 10.0
"""The weight of parameters by default."""


class Sweep(NamedTuple):
    """Settings of the sweeps; see `pjax_prim.displacement`."""

    lam: float = LAM
    weight: float = WEIGHT
    sweeps: int = 1


def displacements(
    problem: AbstractProblem, parameters: Sequence[Array], settings: Sweep
) -> list[Array | None]:
    """For each parameter the sum over its copies of what the sweep moves them by; None if unused.

    From the values of the forward pass every loss moves its operand by its proximal step. Each node,
    consumers before producers, is then projected with its output changed by the sum of what its
    consumers moved their copies by. The change is divided by the node's mean damping (`Displaced`), one
    number per node, so that its size does not fade from layer to layer; it is a mean over examples
    and in units of the losses' gradient.

    What an iteration of a loop passes to the one before arrives there in the next sweep.
    """
    graph = problem.graph
    produced = problem.outputs(parameters)
    late = {
        index: jnp.zeros_like(produced[index])
        for index, uses in enumerate(graph.uses)
        if any(use.consumer <= index for use in uses)
    }

    def once(late: dict[int, Array]) -> tuple[dict[int, Array], dict[int, Array]]:
        changes = dict(late)
        later = {index: jnp.zeros_like(x) for index, x in late.items()}
        for index in reversed(range(len(graph.nodes))):
            if graph.nodes[index].constraint is None:
                continue
            for producer, change in _back(problem, index, produced, changes.get(index), settings):
                found = later if producer >= index else changes
                found[producer] = found[producer] + change if producer in found else change
        return changes, later

    if late and settings.sweeps > 1:
        late = jax.lax.fori_loop(1, settings.sweeps, lambda _, late: once(late)[1], late)
    changes, _ = once(late)
    unit = step_of_losses(graph, settings)
    return [None if node is None else changes[node] / unit for node in graph.parameters]


def step_of_losses(graph: ConstraintGraph, settings: Sweep) -> float:
    """What a sum over examples of displacements is divided by."""
    examples = max(graph.nodes[index].constraints for index in graph.losses)
    return settings.lam * max(examples, 1)


def _back(
    problem: AbstractProblem,
    index: int,
    produced: dict[int, Array],
    change: Array | None,
    settings: Sweep,
) -> list[tuple[int, Array]]:
    """What a node passes to its producers when its output is to change."""
    node = problem.graph.nodes[index]
    constraint = node.constraint
    assert constraint is not None
    operands = problem.gather(index, produced.__getitem__)
    constants = problem.constant_operands(index)
    wanted = [not operand.is_constant for operand in node.operands]
    moves: tuple[Array | None, ...]
    if isinstance(constraint, Loss):
        with node.scope():
            moves = (constraint.pull(operands, constants, settings.lam),)
        factor: Array | float = 1.0
    else:
        if change is None:  # no loss depends on it
            return []
        weights = [
            settings.weight if problem.graph.is_parameter(operand) else None for operand in node.operands
        ]
        with node.scope():
            moves, factor = constraint.displace(
                Asked(operands, produced[index], change, constants, wanted, weights)
            )
    passed: list[tuple[int, Array]] = []
    for operand, move in zip(node.operands, moves, strict=True):
        if move is not None and not operand.is_constant:
            parts = operand.spread(move * factor, problem.constants)
            passed += zip(operand.producers, parts, strict=True)
    return passed
