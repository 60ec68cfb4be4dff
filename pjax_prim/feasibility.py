"""A function with its arrays, as a feasibility problem."""

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Float

from ._compat import outside_of_traces, program_cache
from .errors import ArgumentError, GraphError
from .explicit_axes import automatic_trace, in_automatic_axes
from .graph import ConstraintGraph, build_graph
from .graph.ir import Value, read
from .graph.program import Program, make_program, trace
from .metric import weigh
from .primitives._arguments import is_concrete, standard_promotion
from .primitives._losses import check_signs
from .problem import (
    AbstractProblem,
    CompressedProblem,
    ConsensusProblem,
    DividedProblem,
    ExpandedProblem,
    Form,
    Placement,
)
from .problem.base import Readout
from .restricting import Restrictions, project_all, resolve
from .restrictions import AbstractRestriction
from .rules.losses import Equality, Loss
from .rules.threshold import ThresholdDot
from .settings import operands
from .solvers import AbstractSolver
from .versions import versions

PROBLEMS: dict[Form, type[AbstractProblem]] = {
    "compressed": CompressedProblem,
    "expanded": ExpandedProblem,
    "divided": DividedProblem,
    "consensus": ConsensusProblem,
}


class FeasibilityProblem(eqx.Module):
    """A function with its arrays: the constraints of every operation and of every loss in it.

    Made by `FeasibilityProblem.of(fn, params, *args)`. It is a pytree of its arrays, so it goes through
    `jax.jit` and `jax.vmap`; two of them with the same program share compilations, whatever the function
    object was.

    - `graph`: the constraints, not two-coloured.
    - `trained`: the parameters, arrays in the order of the leaves of `params`.
    - `data`: the other arrays among the arguments; `captured`, those that the function closes over.
    - `restrictions`: of each parameter; none at all where all are free.
    """

    graph: ConstraintGraph = eqx.field(static=True)
    trained: list[Any]
    data: list[Any]
    captured: list[Any]
    _fixed: Any
    _treedef: Any = eqx.field(static=True)
    restrictions: tuple[AbstractRestriction | None, ...] = eqx.field(static=True, default=())

    @classmethod
    def of(
        cls,
        fn: Callable[..., Any],
        params: Any,
        *args: Any,
        has_aux: bool = False,
        restrictions: Restrictions = None,
    ) -> "FeasibilityProblem":
        """The problem of `fn(params, *args)`.

        **Arguments:** as for `pjp.solve`; arrays or `jax.ShapeDtypeStruct`s.

        **Errors:** `ArgumentError`, `GraphError` and `MissingRuleError`, before any compilation.

        **Cost:** tracing `fn`, and for a new program that of building its graph.
        """
        if not callable(fn):
            raise ArgumentError(f"fn: expected a function of (params, *args), given {fn!r}")
        check_parameters(params)
        check_data(args)
        trained, fixed = eqx.partition(params, is_trained)
        with_paths, treedef = jtu.tree_flatten_with_path(trained)
        names = tuple(jtu.keystr(path) or "params" for path, _ in with_paths)
        parameters = [_as_array(leaf) for _, leaf in with_paths]
        chosen = resolve(restrictions, names, parameters)
        moving, still = eqx.partition((fixed, args), is_data)
        data, data_treedef = jtu.tree_flatten(moving)
        data = [_as_array(leaf) for leaf in data]
        _check_sizes(args)
        counts: list[int] = []

        def function(parameters: list[Any], data: list[Any]) -> list[Any]:
            fixed, args = eqx.combine(jtu.tree_unflatten(data_treedef, data), still)
            returned = fn(eqx.combine(jtu.tree_unflatten(treedef, parameters), fixed), *args)
            value = pair_of(returned)[0] if has_aux else returned
            results = [x for x in jtu.tree_leaves(value) if eqx.is_array_like(x)]
            if not results:
                raise GraphError(f"fn: returned no array but {value!r}; return the losses")
            counts.append(len(results))
            return results

        with automatic_trace([*parameters, *data]) as arrays:
            closed = trace(function, arrays[: len(parameters)], arrays[len(parameters) :])
        program, captured = make_program(closed, len(parameters), names, counts[0])
        graph = _cached_graph(program) if program.is_pure else build_graph(program)
        # Put where a transfer guard lets them go.
        captured = [x if isinstance(x, jax.Array) else jax.device_put(x) for x in captured]
        return cls(graph, parameters, data, captured, fixed, treedef, chosen)

    def restore(self, arrays: Sequence[Any]) -> Any:
        """A model of the original structure with new parameters."""
        return eqx.combine(self.tree(arrays), self._fixed)

    def tree(self, arrays: Sequence[Any]) -> Any:
        """Makes of arrays, one for each parameter, a pytree of their structure with None elsewhere."""
        return jtu.tree_unflatten(self._treedef, list(arrays))

    def graph_for(self, solver: AbstractSolver) -> ConstraintGraph:
        """The graph as a solver takes it: two-coloured where it has to be.

        **Errors:** `ArgumentError` for settings or a metric that do not fit it.
        """
        graph = self.graph.two_coloured if solver.two_sets else self.graph
        solver.check(graph)
        weigh(graph, solver.metric)
        return graph

    def numbers(
        self,
        graph: ConstraintGraph | None = None,
        form: Form = "compressed",
        placement: Placement | None = None,
    ) -> AbstractProblem:
        """A graph of this problem with its arrays, in one of the forms of a state."""
        graph = self.graph if graph is None else graph
        constants = graph.constants(self.data, self.captured)
        return PROBLEMS[form](graph, constants, placement, self.restrictions)

    @property
    def arrays(self) -> "Arrays":
        """All arrays: parameters, data, captured ones."""
        return self.trained, self.data, self.captured

    def init(self, solver: AbstractSolver) -> Any:
        """The first state of a solver."""
        return _init(self.graph_for(solver), operands(solver), self.arrays, self.restrictions)

    def step(self, solver: AbstractSolver, state: Any) -> tuple[Any, dict[str, Float[Array, ""]]]:
        """One step of a solver.

        **Returns:** the new state, and for each node by name the distance between the shadows.
        """
        graph = self.graph_for(solver)
        state, gaps = _step(graph, operands(solver), self.arrays, self.restrictions, state)
        return state, {node.name: gaps[i] for i, node in enumerate(graph.nodes)}

    def parameters(self, solver: AbstractSolver, state: Any, readout: Readout = "shadow") -> Any:
        """The model that a solver's state stands for, of the structure of `params`."""
        graph = self.graph_for(solver)
        read = _read(graph, operands(solver), self.arrays, self.restrictions, state, readout)
        found = [old if new is None else new for new, old in zip(read, self.trained, strict=True)]
        return self.restore(project_all(found, self.restrictions))

    def gaps(self) -> dict[str, Float[Array, ""]]:
        """Gives for each loss by name how far its projection moves what the forward pass gives it.

        In the forward pass all other constraints are satisfied.
        """
        found = _gaps(self.graph, self.arrays)
        return {self.graph.nodes[i].name: gap for i, gap in zip(self.graph.losses, found, strict=True)}

    def check(self, solver: AbstractSolver | None = None) -> None:
        """Raises an error for labels and weights of losses that are not allowed, where values are known.

        **Arguments:** `solver`, what weights are to be allowed for, too.
        """
        check_constants(self, solver)

    def save(self, file: str | Path) -> None:
        """Writes what a bug report needs: the program, the graph and the arrays, as a zip file.

        The file holds `program.txt` (the jaxpr), `graph.txt`, `arrays.npz` and `versions.json`, which has the
        facts that `pjp.show_versions()` prints. The arrays include the data: look at what you send.

        **Arguments:** `file`, a path; a file that is there is overwritten.
        """
        arrays = {"parameters": self.trained, "data": self.data, "captured": self.captured}
        named = {
            f"{kind}_{i}": np.asarray(x)
            for kind, several in arrays.items()
            for i, x in enumerate(several)
            if not jnp.issubdtype(x.dtype, jax.dtypes.extended)
        }
        buffer = io.BytesIO()
        wide = {k: v.astype("float32") if v.dtype == jnp.bfloat16 else v for k, v in named.items()}
        np.savez(buffer, **wide)  # type: ignore[arg-type]
        program = self.graph.function.program
        assert program is not None
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("program.txt", str(program.jaxpr))
            archive.writestr("graph.txt", str(self.graph))
            archive.writestr("arrays.npz", buffer.getvalue())
            archive.writestr("versions.json", json.dumps(versions(), indent=1))


def constraint_graph(fn: Callable[..., Any]) -> Callable[..., ConstraintGraph]:
    """The constraint graph of a function: `constraint_graph(fn)(params, *args)`.

    Like `jax.make_jaxpr` it only traces; `print` it to see every constraint with its shape,
    set, number of copies and bytes.

    **Arguments:** `fn(params, *args)`, a function of an Equinox model or any pytree of arrays
    that returns a number or losses.

    **Returns:** a function of the same arguments (arrays or `jax.ShapeDtypeStruct`s) that
    returns the two-coloured `ConstraintGraph`.

    **Errors:** those of `solve`.
    """

    def make(params: Any, *args: Any) -> ConstraintGraph:
        return FeasibilityProblem.of(fn, params, *args).graph.two_coloured

    return make


@program_cache
def _cached_graph(program: Program) -> ConstraintGraph:
    return build_graph(program)


Arrays = tuple[list[Any], list[Any], list[Any]]  # parameters, data, captured

_WEIGHING: set[Form] = {"consensus"}
"""The forms in which parameters move by all terms at once. Each by itself, terms that pull against each other
balance elsewhere than in their sum, so that a step below zero is refused, or NaN where it is traced."""


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
    if solver.form not in _WEIGHING:
        constants |= {x: jnp.where(constants[x] < 0, jnp.nan, constants[x]) for x in graph.signed}
    return PROBLEMS[solver.form](graph, constants, placement, restrictions)


def _jitted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Jitted, in JAX's ordinary promotion, whatever the axes of the mesh are."""

    def run(*arguments: Any) -> Any:
        with standard_promotion():
            return in_automatic_axes(function, *arguments)

    run.__name__ = function.__name__
    jitted: Callable[..., Any] = eqx.filter_jit(run)
    return jitted


Chosen = tuple[AbstractRestriction | None, ...]


@_jitted
def _init(graph: ConstraintGraph, solver: AbstractSolver, arrays: Arrays, restrictions: Chosen) -> Any:
    return solver.init(make_problem(graph, solver, arrays, None, restrictions), arrays[0])


@_jitted
def _step(
    graph: ConstraintGraph, solver: AbstractSolver, arrays: Arrays, restrictions: Chosen, state: Any
) -> tuple[Any, Array]:
    state, squared = solver.step(make_problem(graph, solver, arrays, None, restrictions), state)
    return state, jnp.sqrt(squared)


@_jitted
def _read(
    graph: ConstraintGraph,
    solver: AbstractSolver,
    arrays: Arrays,
    restrictions: Chosen,
    state: Any,
    readout: Readout,
) -> list[Array | None]:
    return solver.read(make_problem(graph, solver, arrays, None, restrictions), state, readout)


@_jitted
def _gaps(graph: ConstraintGraph, arrays: Arrays) -> list[Array]:
    problem = CompressedProblem(graph, graph.constants(*arrays[1:]))
    return [jnp.sqrt(gap) for gap in problem.forward_gaps(arrays[0])]


@_jitted
def _constants(
    graph: ConstraintGraph, wanted: tuple[Value, ...], data: list[Any], captured: list[Any]
) -> list[Any]:
    environment = graph.constants(data, captured, wanted=wanted)
    return [read(environment, value) for value in wanted]


def check_constants(problem: FeasibilityProblem, solver: AbstractSolver | None = None) -> None:
    """Checks the labels of losses and of threshold neurons, where their values are known."""
    graph = problem.graph
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
    arrays = (*problem.data, *problem.captured)
    signed = () if solver is None or solver.form in _WEIGHING else graph.signed
    if not (checked or signs or graph.weights or signed) or not all(is_concrete(x) for x in arrays):
        return
    wanted = [*(value for _, values in checked for value in values), *signs, *graph.weights, *signed]
    with outside_of_traces():  # what a function that is traced closes over is known, too
        found = jax.device_get(_constants(graph, tuple(wanted), problem.data, problem.captured))
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


def pair_of(returned: Any) -> tuple[Any, Any]:
    """The value and the auxiliary output that a function returned."""
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise ArgumentError(
            "fn: expected it to return a pair of value and auxiliary output with has_aux=True, given "
            f"{returned!r}"
        )
    return returned


def check_are_arrays(params: Any, args: Any) -> None:
    """A shape where an array is needed is an error that names it."""
    for name, tree in (("params", params), ("args", args)):
        for path, leaf in jtu.tree_leaves_with_path(tree):
            if isinstance(leaf, jax.ShapeDtypeStruct):
                raise ArgumentError(
                    f"{name}{jtu.keystr(path)}: expected an array, given a jax.ShapeDtypeStruct; "
                    "pjp.constraint_graph takes shapes alone"
                )


def check_data(args: tuple[Any, ...]) -> None:
    """What JAX takes for no array is an error that names the argument."""
    for path, leaf in jtu.tree_leaves_with_path(args):
        if isinstance(leaf, np.ndarray):
            _check_array(f"args{jtu.keystr(path)}", leaf)


def _check_array(name: str, leaf: Any) -> None:
    if isinstance(leaf, np.ma.MaskedArray):
        raise ArgumentError(f"{name}: expected an array without a mask, given a masked one; fill it")
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):  # PRNG keys
        return
    if not np.dtype(leaf.dtype).isnative:
        raise ArgumentError(
            f"{name}: expected the byte order of this machine, given dtype {leaf.dtype} (shape {leaf.shape})"
        )


def _check_sizes(args: tuple[Any, ...]) -> None:
    """A graph counts copies, so every size is a number."""
    for path, leaf in jtu.tree_leaves_with_path(args):
        if not all(isinstance(size, int) for size in getattr(leaf, "shape", ())):
            raise ArgumentError(
                f"args{jtu.keystr(path)}: expected an array of known sizes, given shape {leaf.shape}; a "
                "solver counts copies: export it for each size (pjp.displacement takes symbolic ones)"
            )


def is_trained(leaf: Any) -> bool:
    """Whether a leaf of the parameters is an array that is trained."""
    return _is_arraylike(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


def is_data(leaf: Any) -> bool:
    """Whether another leaf is an array rather than a static value, as texts and objects in one are."""
    return _is_arraylike(leaf) and not (isinstance(leaf, np.ndarray) and leaf.dtype.kind in "OSUMm")


def _is_arraylike(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _as_array(leaf: Any) -> Any:
    return leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jnp.asarray(leaf)


def check_parameters(params: Any, kind: Any = jnp.floating) -> None:
    """Something is trained, and nothing that looks trained is left out silently.

    Integer arrays inside an Equinox module are its business (`eqx.filter_grad` leaves them
    alone too); in plain containers they are an error, as for `jax.grad`. Arrays of 8 bits and what JAX takes
    for no array (big-endian, structured, masked) are an error everywhere.

    **Arguments:** `kind`, the dtypes that are trained: `jnp.floating`, or `jnp.inexact` for complex ones too.
    """
    for path, leaf in jtu.tree_flatten_with_path(params)[0]:
        if not isinstance(leaf, np.ndarray | np.generic) and not _is_arraylike(leaf):
            continue
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):  # PRNG keys
            continue
        name, dtype = f"params{jtu.keystr(path)}", np.dtype(leaf.dtype)
        given = f"given dtype {leaf.dtype} (shape {leaf.shape})"
        allowed = "expected a bfloat16, float16, float32 or float64 array"
        _check_array(name, leaf)
        if jnp.issubdtype(dtype, jnp.complexfloating) and kind is jnp.floating:
            raise ArgumentError(
                f"{name}: {allowed}, {given}; train the real and the imaginary part, or pass it in *args"
            )
        if jnp.issubdtype(dtype, jnp.floating) and not 2 <= dtype.itemsize <= 8:
            raise ArgumentError(f"{name}: {allowed}, {given}")
    modules = jtu.tree_flatten_with_path(params, is_leaf=lambda x: isinstance(x, eqx.Module))[0]
    for path, leaf in modules:
        if isinstance(leaf, eqx.Module) or not _is_arraylike(leaf):
            continue
        if not jnp.issubdtype(leaf.dtype, kind):
            raise ArgumentError(
                f"params{jtu.keystr(path)}: expected a floating-point array, given dtype "
                f"{leaf.dtype} (shape {leaf.shape}); pass arrays that are not trained in *args"
            )
    leaves = [leaf for leaf in jtu.tree_leaves(params) if _is_arraylike(leaf)]
    if not any(jnp.issubdtype(leaf.dtype, kind) for leaf in leaves):
        raise ArgumentError("params: no floating-point array in it, so there is nothing to train")
