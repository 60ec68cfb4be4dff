"""The labels and the weights of losses, checked where their values are known."""

from typing import Any

import jax
import numpy as np

from ._compat import outside_of_traces
from .errors import GraphError
from .graph import ConstraintGraph
from .graph.ir import Value, read
from .primitives._arguments import is_concrete
from .primitives._losses import check_signs
from .problem.forms import PROBLEMS
from .rules.losses import Equality, Loss
from .rules.threshold import ThresholdDot
from .solvers import AbstractSolver
from .stepping import jitted


@jitted
def _constants(
    graph: ConstraintGraph, wanted: tuple[Value, ...], data: list[Any], captured: list[Any]
) -> list[Any]:
    environment = graph.constants(data, captured, wanted=wanted)
    return [read(environment, value) for value in wanted]


def check_constants(
    graph: ConstraintGraph, data: list[Any], captured: list[Any], solver: AbstractSolver | None = None
) -> None:
    """Raises an error for labels and weights of losses that are not allowed, where values are known.

    **Arguments:** `solver`, what weights are to be allowed for, too.
    """
    checked = [
        (node.constraint, node.constants)
        for node in graph.nodes
        if isinstance(node.constraint, Loss) and node.constraint.is_checked
    ]
    signs = [
        node.constants[0]
        for node in graph.nodes
        if isinstance(node.constraint, Equality)
        if all(isinstance(graph.nodes[x].constraint, ThresholdDot) for x in node.operands[0].producers)
    ]
    signed = () if solver is None or PROBLEMS[solver.form].sums_terms else graph.signed
    are_known = all(is_concrete(x) for x in (*data, *captured))
    if not (checked or signs or graph.weights or signed) or not are_known:
        return
    wanted = [*(value for _, values in checked for value in values), *signs, *graph.weights, *signed]
    with outside_of_traces():  # what a function that is traced closes over is known, too
        found = jax.device_get(_constants(graph, tuple(wanted), data, captured))
    environment = dict(zip(wanted, found, strict=True))
    for constraint, values in checked:
        constraint.check([read(environment, value) for value in values])
    for value in signs:
        check_signs(read(environment, value))
    if not all(np.all(np.asarray(read(environment, value)) >= 0) for value in graph.weights):
        raise GraphError(
            "fn: a loss has a weight below zero (or none that is a number) in what is returned; a solver can "
            "satisfy a loss, or leave it out, but not do the opposite (a displacement takes any sign)"
        )
    if any(np.any(np.asarray(read(environment, value)) < 0) for value in signed):
        raise GraphError(
            "fn: a number that is no loss has a weight below zero in what is returned; "
            f"{type(solver).__name__} moves each term by itself, and terms that pull against one another do "
            "not balance there: use pjp.ExtrapolatedProjections(), a displacement, or a loss that it knows"
        )
