"""What a solver compiles on a graph with its arrays: its first state, a step, and what a state stands for."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .explicit_axes import in_automatic_axes
from .graph import ConstraintGraph
from .metric import weigh
from .primitives._arguments import standard_promotion
from .problem import AbstractProblem, CompressedProblem, Placement
from .problem.base import Readout
from .problem.forms import PROBLEMS
from .restrictions import AbstractRestriction
from .solvers import AbstractSolver

Arrays = tuple[list[Any], list[Any], list[Any]]  # parameters, data, captured

Chosen = tuple[AbstractRestriction | None, ...]  # for each parameter


def make_problem(
    graph: ConstraintGraph,
    solver: AbstractSolver,
    arrays: Arrays,
    placement: Placement | None = None,
    restrictions: Sequence[AbstractRestriction | None] = (),
) -> AbstractProblem:
    """The graph with its numbers, in the form and the metric of a solver."""
    _, data, captured = arrays
    graph = weigh(graph, solver.metric)
    constants = graph.constants(data, captured)
    if not PROBLEMS[solver.form].sums_terms:
        constants |= {x: jnp.where(constants[x] < 0, jnp.nan, constants[x]) for x in graph.signed}
    return PROBLEMS[solver.form](graph, constants, placement, restrictions)


def jitted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Jitted, in JAX's ordinary promotion, whatever the axes of the mesh are."""

    def run(*arguments: Any) -> Any:
        with standard_promotion():
            return in_automatic_axes(function, *arguments)

    run.__name__ = function.__name__
    jitted: Callable[..., Any] = eqx.filter_jit(run)
    return jitted


@jitted
def init(graph: ConstraintGraph, solver: AbstractSolver, arrays: Arrays, restrictions: Chosen) -> Any:
    """The first state."""
    return solver.init(make_problem(graph, solver, arrays, None, restrictions), arrays[0])


@jitted
def step(
    graph: ConstraintGraph, solver: AbstractSolver, arrays: Arrays, restrictions: Chosen, state: Any
) -> tuple[Any, Array]:
    """The state after one step, and for each node the distance between the shadows."""
    state, squared = solver.step(make_problem(graph, solver, arrays, None, restrictions), state)
    return state, jnp.sqrt(squared)


@jitted
def read(
    graph: ConstraintGraph,
    solver: AbstractSolver,
    arrays: Arrays,
    restrictions: Chosen,
    state: Any,
    readout: Readout,
) -> list[Array | None]:
    """The parameters that a state stands for; None where one reaches no loss."""
    return solver.read(make_problem(graph, solver, arrays, None, restrictions), state, readout)


@jitted
def gaps(graph: ConstraintGraph, arrays: Arrays) -> list[Array]:
    """How far the projection of each loss moves what the forward pass gives it."""
    problem = CompressedProblem(graph, graph.constants(*arrays[1:]))
    return [jnp.sqrt(gap) for gap in problem.forward_gaps(arrays[0])]
