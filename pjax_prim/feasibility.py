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

from . import stepping
from ._compat import program_cache
from .arguments import as_array, check_data, check_parameters, check_sizes, is_data, is_trained, pair_of
from .constants import check_constants
from .errors import ArgumentError, GraphError
from .explicit_axes import automatic_trace
from .graph import ConstraintGraph, build_graph
from .graph.program import Program, make_program, trace
from .metric import weigh
from .problem import AbstractProblem, Form, Placement
from .problem.base import Readout
from .problem.forms import PROBLEMS
from .restricting import Restrictions, project_all, resolve
from .restrictions import AbstractRestriction
from .settings import operands
from .solvers import AbstractSolver
from .versions import versions


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
        parameters = [as_array(leaf) for _, leaf in with_paths]
        chosen = resolve(restrictions, names, parameters)
        moving, still = eqx.partition((fixed, args), is_data)
        data, data_treedef = jtu.tree_flatten(moving)
        data = [as_array(leaf) for leaf in data]
        check_sizes(args)
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
    def arrays(self) -> stepping.Arrays:
        """All arrays: parameters, data, captured ones."""
        return self.trained, self.data, self.captured

    def init(self, solver: AbstractSolver) -> Any:
        """The first state of a solver."""
        return stepping.init(self.graph_for(solver), operands(solver), self.arrays, self.restrictions)

    def step(self, solver: AbstractSolver, state: Any) -> tuple[Any, dict[str, Float[Array, ""]]]:
        """One step of a solver.

        **Returns:** the new state, and for each node by name the distance between the shadows.
        """
        graph = self.graph_for(solver)
        state, gaps = stepping.step(graph, operands(solver), self.arrays, self.restrictions, state)
        return state, {node.name: gaps[i] for i, node in enumerate(graph.nodes)}

    def parameters(self, solver: AbstractSolver, state: Any, readout: Readout = "shadow") -> Any:
        """The model that a solver's state stands for, of the structure of `params`."""
        graph = self.graph_for(solver)
        read = stepping.read(graph, operands(solver), self.arrays, self.restrictions, state, readout)
        found = [old if new is None else new for new, old in zip(read, self.trained, strict=True)]
        return self.restore(project_all(found, self.restrictions))

    def gaps(self) -> dict[str, Float[Array, ""]]:
        """Gives for each loss by name how far its projection moves what the forward pass gives it.

        In the forward pass all other constraints are satisfied.
        """
        found = stepping.gaps(self.graph, self.arrays)
        return {self.graph.nodes[i].name: gap for i, gap in zip(self.graph.losses, found, strict=True)}

    def check(self, solver: AbstractSolver | None = None) -> None:
        """Raises an error for labels and weights of losses that are not allowed, where values are known.

        **Arguments:** `solver`, what weights are to be allowed for, too.
        """
        check_constants(self.graph, self.data, self.captured, solver)

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
