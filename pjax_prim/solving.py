"""`solve`: train the parameters of a function by projections."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import equinox as eqx
import jax
import jax.export
import jax.numpy as jnp
from jaxtyping import Array

from .arguments import check_are_arrays
from .errors import ArgumentError
from .explicit_axes import in_automatic_axes, on_mesh
from .feasibility import FeasibilityProblem
from .graph import ConstraintGraph
from .primitives._arguments import standard_promotion
from .problem import Placement
from .problem.base import Readout
from .restricting import Restrictions, project_all
from .restrictions import AbstractRestriction
from .settings import Setting, check_count, check_scalar, check_setting, operands
from .solvers import AbstractSolver, iterate
from .solvers.without_derivative import without_derivative
from .stepping import Arrays, make_problem


class RESULTS(eqx.Enumeration):
    """Why a solve ended."""

    converged = "The gap fell below the tolerance."
    max_steps_reached = "The step limit was reached."
    nonfinite = "A value became infinite or NaN; the last finite state is returned."


@partial(jax.tree_util.register_dataclass, data_fields=["array"], meta_fields=["names"])
@dataclass(frozen=True, eq=False)
class ByNode(Mapping[str, Array]):
    """Numbers of all nodes by name, read one by one from one array.

    A program that gives them apart would compile a slice for each. Axes that `jax.vmap` or a scan adds come
    first.
    """

    array: Array
    names: tuple[str, ...]

    def __getitem__(self, name: str) -> Array:
        if name not in self.names:
            raise KeyError(name)
        return self.array[..., self.names.index(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return repr(dict(self))


jax.export.register_pytree_node_serialization(
    ByNode,
    serialized_name="pjax_prim.ByNode",
    serialize_auxdata=lambda fields: json.dumps(fields).encode(),
    deserialize_auxdata=lambda text: tuple(map(tuple, json.loads(text))),
)


class Solution(eqx.Module):
    """What `solve` returns.

    - `params`: the trained parameters, of the structure of the given ones.
    - `state`: the solver's state; pass it to `solve(..., state=...)` to continue.
    - `stats`: `num_steps`; of the last step the `gap` (the distance between the shadows),
      `gap_per_node` (a mapping by node name) and `change` (the distance that the parameters
      moved); `first_nonfinite`, the index of the first node with a non-finite value, or -1.
    - `result`: an item of `RESULTS`.
    """

    params: Any
    state: Any
    stats: dict[str, Any]
    result: Any

    @property
    def node_names(self) -> tuple[str, ...]:
        """The names of the graph's nodes, in the order of the state."""
        names: tuple[str, ...] = self.stats["gap_per_node"].names
        return names

    @property
    def message(self) -> str:
        """The result in words, naming the node where a value became non-finite."""
        results: Any = RESULTS
        text = str(results[self.result])
        node = int(self.stats["first_nonfinite"])
        return text if node < 0 else f"{text} First at node {self.node_names[node]!r}."


def solve(
    fn: Callable[..., Any],
    params: Any,
    *args: Any,
    solver: AbstractSolver,
    max_steps: int | Array,
    tol: Setting | None = None,
    readout: Readout = "shadow",
    state: Any = None,
    placement: Placement | None = None,
    has_aux: bool = False,
    restrictions: Restrictions = None,
) -> Solution:
    """Finds parameters, and states of every operation, that satisfy all constraints of a function.

    Every operation of `fn` and every loss in it becomes a constraint; the solver iterates their
    projections. Nothing is differentiated.

    **Arguments:**

    - `fn`: `fn(params, *args)` returns a number, or losses. Losses are made by the functions of this
      library, taken from optax, written out, or one's own (`pjp.register_loss`). Sums and multiples of
      losses set their weights; what reaches the result without a loss is minimised (`pjp.minimise`).
    - `params`: an Equinox model or any pytree; its floating-point arrays are trained.
    - `args`: any pytrees.
    - `solver`: one of `pjax_prim.solvers`.
    - `max_steps`: at most this many steps; at least 0.
    - `tol`: the solve stops once the gap is at most this; None takes all steps.
    - `readout`: "shadow" reads each parameter as the consensus of all its copies, "governing" its
      own variable in the iterated sequence.
    - `state`: that of an earlier solution of the same function, shapes and solver; it replaces the
      start from the forward pass.
    - `placement`: that of a `pjax_prim.sharding.Plan` for the same function, shapes and solver: how the
      solver's arrays are divided over a mesh.
    - `restrictions`: sets that parameters are in: one for all of them, or a mapping from patterns of paths
      (`"layers.*.weight"`) to restrictions such as `pjp.SpectralNorm(1.0)`, as of `pjp.project_params`. A
      parameter's own projection is the nearest point of its set to the mean of its copies, and the
      parameters that are returned are in their sets.

    `max_steps`, `tol` and the solver's settings that are numbers may be Python's, NumPy's or JAX's, traced
    ones too: a new value compiles nothing, and `jax.vmap` over them works. Traced values are not checked.

    **Returns:** a `Solution`.

    **Errors:** `ArgumentError`, `GraphError` and `MissingRuleError`, before any compilation.

    **Cost:** in the compressed form a step costs a few gradient steps, in the expanded form a few
    passes over all copies. May be called inside `jax.jit` and `jax.vmap`; its derivative
    is an `ArgumentError`.
    """
    check_arguments(solver, max_steps, tol, readout)
    if not (placement is None or isinstance(placement, Placement)):
        raise ArgumentError(f"placement: expected that of a pjax_prim.sharding.Plan, given {placement!r}")
    check_are_arrays(params, args)
    mesh = None if placement is None else placement.whole.mesh
    with on_mesh(mesh):
        problem = FeasibilityProblem.of(fn, params, *args, has_aux=has_aux, restrictions=restrictions)
        problem.check(solver)
    graph, arrays = problem.graph_for(solver), problem.arrays
    if placement is not None:
        _check_placement(graph, solver, placement)
    if state is not None:
        with on_mesh(mesh):
            _check_state(graph, solver, arrays, state)
    new, state, stats, result = _run(
        arrays,
        placement,
        graph,
        operands(solver),
        operands(max_steps),
        operands(tol),
        readout,
        state,
        problem.restrictions,
    )
    return Solution(problem.restore(new), state, stats, result)


@eqx.filter_jit
def _run(arrays: Arrays, placement: Placement | None, *others: Any) -> "_Solved":
    """What `_solved` gives, in JAX's ordinary promotion, whatever the axes of the mesh are."""
    with standard_promotion(), on_mesh(None if placement is None else placement.whole.mesh):
        found: _Solved = in_automatic_axes(_solved, arrays, placement, *others, like=arrays[0])
        return found


_Solved = tuple[list[Array], Any, dict[str, Any], Any]
"""The parameters, the state, the statistics and the result."""


def _solved(
    arrays: Arrays,
    placement: Placement | None,
    graph: ConstraintGraph,
    solver: AbstractSolver,
    max_steps: Any,
    tol: Setting | None,
    readout: Readout,
    start: Any,
    restrictions: tuple[AbstractRestriction | None, ...],
) -> _Solved:
    problem = make_problem(graph, solver, arrays, placement, restrictions)
    parameters = arrays[0]
    progress = iterate(
        solver,
        problem,
        lambda: solver.init(problem, parameters) if start is None else start,
        jnp.asarray(max_steps, jnp.int32),
        tol,
    )
    bad = progress.first_nonfinite >= 0
    kinds: Any = RESULTS  # an enumeration's members are its items, which type checkers cannot know
    solved = ~bad & solver.terminate(progress.gap, tol)
    result = kinds.where(bad, kinds.nonfinite, kinds.where(solved, kinds.converged, kinds.max_steps_reached))
    # A start that is not finite has no finite shadow: the parameters are then as given.
    unusable = bad & (progress.steps == 0)
    read = solver.read(problem, progress.state, readout)
    found = [
        given if new is None else new.astype(given.dtype) for given, new in zip(parameters, read, strict=True)
    ]
    # Once more, because rounding to their dtype, or a readout of other variables, leads out of their sets.
    found = project_all(found, restrictions)
    new = jax.lax.cond(unusable, lambda: list(parameters), lambda: found)
    stats = {
        "num_steps": progress.steps,
        "gap": progress.gap,
        "gap_per_node": ByNode(progress.gaps, tuple(node.name for node in graph.nodes)),
        "change": progress.change,
        "first_nonfinite": progress.first_nonfinite,
    }
    new, state, stats = without_derivative((new, progress.state, stats))
    return new, state, stats, result


def check_arguments(solver: Any, max_steps: Any, tol: Any, readout: Any) -> None:
    """The arguments that `solve` and `solve_starts` have in common."""
    if not isinstance(solver, AbstractSolver):
        raise ArgumentError(
            f"solver: expected a solver such as pjp.AlternatingProjections(), given {solver!r}"
        )
    check_count("max_steps", max_steps, 0)
    if tol is not None:
        allowed = "a finite number of at least 0 or None"
        check_setting("tol", tol, allowed, lambda x: (x >= 0) & (x < math.inf))
        check_scalar("tol", tol)
    if readout not in get_args(Readout):
        allowed = " or ".join(map(repr, get_args(Readout)))
        raise ArgumentError(f"readout: expected {allowed}, given {readout!r}")


def _check_placement(graph: ConstraintGraph, solver: AbstractSolver, placement: Placement) -> None:
    expected = [None if node.output is None else len(node.output.shape) for node in graph.nodes]
    given = [None if x is None else len(x.spec) for x in placement.outputs]
    fits = len(expected) == len(given) and all(
        (a is None) == (b is None) and (a is None or b is None or b <= a)
        for a, b in zip(expected, given, strict=True)
    )
    if not fits:
        raise ArgumentError(
            f"placement: expected that of a plan for this function and {type(solver).__name__} "
            f"({len(expected)} nodes), given one for {len(given)} nodes of other kinds"
        )


def _check_state(graph: ConstraintGraph, solver: AbstractSolver, arrays: Arrays, state: Any) -> None:
    with standard_promotion():
        expected = jax.eval_shape(
            lambda arrays: solver.init(make_problem(graph, solver, arrays), arrays[0]), arrays
        )
    structures: list[Any] = [jax.tree.structure(x) for x in (expected, state)]
    if structures[0] != structures[1]:
        raise ArgumentError(
            f"state: expected the state of {type(solver).__name__}(form={solver.form!r}) on a graph of "
            f"{len(graph.nodes)} nodes, given another structure"
        )
    where = [f"node {node.name!r}" for node in graph.nodes]
    pairs = zip(where, *map(solver.point, (expected, state)), strict=True)
    for place, wanted, given in (*pairs, ("the wrapper's memory", *map(jax.tree.leaves, (expected, state)))):
        for a, b in zip(wanted, given, strict=True):
            if (a.shape, a.dtype) != (jnp.shape(b), jnp.result_type(b)):
                raise ArgumentError(
                    f"state: at {place} expected shape {a.shape} and dtype {a.dtype}, "
                    f"given shape {jnp.shape(b)} and dtype {jnp.result_type(b)}"
                )
