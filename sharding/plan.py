"""How a problem is divided over a mesh: the shardings of all its arrays, and the step on them."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from .._compat import is_traced
from ..arguments import is_data, is_trained
from ..errors import ArgumentError
from ..explicit_axes import is_other_set, on_mesh
from ..feasibility import FeasibilityProblem
from ..graph import ConstraintGraph
from ..graph.paths import path_of
from ..problem import AbstractProblem, Placement, State
from ..problem.forms import PROBLEMS
from ..solvers import AbstractSolver
from ..stepping import make_problem
from .labelling import label_graph
from .mesh import MODEL, STAGE, describe_parts, example_parts, examples
from .products import Stationary, choose_stationary
from .propagation import Labels
from .rules import (
    Rule,
    apply_rules,
    axis_names,
    between_uses,
    check_spec,
    divisor,
    when_summed,
    when_used,
)


@dataclass(frozen=True)
class Row:
    """One array of a plan.

    - `kind`: "parameter", "data" or "state".
    - `spec`: how it is divided; `bytes_per_device`, of its part.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    spec: PartitionSpec
    bytes_per_device: int

    @classmethod
    def of(cls, name: str, kind: str, array: Any) -> "Row":
        """The row of a `jax.ShapeDtypeStruct` with its sharding."""
        spec, size = array.sharding.spec, bytes_on_device(array)
        return cls(name, kind, array.shape, str(array.dtype), spec, size)


def bytes_on_device(array: Any) -> int:
    """The bytes of an array (or a `jax.ShapeDtypeStruct`) on each device; all without sharding."""
    shape = array.shape if array.sharding is None else array.sharding.shard_shape(array.shape)
    return int(math.prod(shape) * array.dtype.itemsize)


@dataclass(frozen=True)
class Plan:
    """A function's feasibility problem, divided over a mesh. Made by `make_plan`.

    - `mesh`, `solver`; `graph`, as the solver takes it.
    - `parameters`, `data`: shardings of the trained arrays and of the other arrays among the arguments.
    - `placement`: the shardings of all arrays in between; `solve` takes it.
    - `captured`: the arrays that the function closes over.
    """

    mesh: Mesh
    solver: AbstractSolver
    graph: ConstraintGraph
    parameters: tuple[NamedSharding, ...]
    data: tuple[NamedSharding, ...]
    placement: Placement
    captured: tuple[Any, ...] = ()

    @property
    def replicated(self) -> NamedSharding:
        """The sharding of what every device has whole, such as metrics."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def state(self) -> Any:
        """The shardings of what the solver iterates, with a wrapper's memory."""
        return self.solver.arrange(self.placement)

    def shardings(self, params: Any, *args: Any) -> tuple[Any, ...]:
        """Gives trees like `(params, *args)` with the sharding of every array, and None for other leaves."""
        parameters, data = iter(self.parameters), iter(self.data)

        def of(leaf: Any, trained: bool) -> NamedSharding | None:
            if trained and is_trained(leaf):
                return next(parameters)
            return next(data) if is_data(leaf) else None

        first = jtu.tree_map(lambda leaf: of(leaf, True), params)
        return (first, *(jtu.tree_map(lambda leaf: of(leaf, False), tree) for tree in args))

    def shard(self, params: Any, *args: Any) -> tuple[Any, ...]:
        """Puts every array of `(params, *args)` where it belongs.

        It works as `equinox.filter_shard`: outside of `jax.jit` arrays are moved, inside they are
        constrained.
        """

        def place(leaf: Any, sharding: NamedSharding | None) -> Any:
            if sharding is None:
                return leaf
            inside = is_traced(leaf)
            return eqx.filter_shard(leaf, sharding) if inside else jax.device_put(leaf, sharding)

        return tuple(
            jtu.tree_map(place, tree, shardings)
            for tree, shardings in zip((params, *args), self.shardings(params, *args), strict=True)
        )

    def rows(self) -> list["Row"]:
        """What is divided how: the parameters, the data and every array of the state."""
        found = []
        parameters, data = self.abstract_arguments()
        held = {node for node in self.graph.parameters if node is not None}
        for index, x in enumerate(data):
            found.append(Row.of(f"data[{index}]", "data", x))
        state = self.abstract_state()
        for node, arrays in enumerate(self.solver.point(state)):
            kind = "parameter" if node in held else "state"
            for index, x in enumerate(arrays):
                name = path_of(self.graph.nodes[node].name)
                found.append(Row.of(name if len(arrays) == 1 else f"{name}[{index}]", kind, x))
        own = {id(x) for x in jax.tree.leaves(self.solver.point(state))}
        for path, x in jtu.tree_leaves_with_path(state):
            if id(x) not in own:
                name = jtu.keystr(path, simple=True, separator=".")
                found.append(Row.of(name, "state", x))
        return found

    def __str__(self) -> str:
        """A table of `rows`, with bytes on each device."""
        rows = self.rows()
        cells = [
            (row.name, row.kind, f"{row.dtype}{list(row.shape)}", str(row.spec), f"{row.bytes_per_device:,}")
            for row in rows
        ]
        total = sum(row.bytes_per_device for row in rows)
        sizes = ", ".join(f"{name}={size}" for name, size in self.mesh.shape.items())
        heading = ("array", "part", "shape", "divided over", "bytes per device")
        table = [heading, *cells, ("total", "", "", "", f"{total:,}")]
        widths = [max(len(row[i]) for row in table) for i in range(len(heading))]
        *left, right = widths
        lines = ["  ".join([*map(str.ljust, cells, left), last.rjust(right)]) for *cells, last in table]
        return "\n".join([f"mesh of {self.mesh.size} devices: {sizes}", *lines])

    @cached_property
    def init(self) -> Callable[[Sequence[Array], Sequence[Array]], State]:
        """`init(parameters, data) -> state`, jitted: the solver's first state."""

        def init(parameters: Sequence[Array], data: Sequence[Array]) -> State:
            with on_mesh(self.mesh):
                return self.solver.init(self._problem(data), parameters)

        return jax.jit(
            init,
            in_shardings=(list(self.parameters), list(self.data)),
            out_shardings=self.state,
        )

    @cached_property
    def step(self) -> Callable[[State, Sequence[Array]], tuple[State, Array]]:
        """`step(state, data) -> (state, gaps)`, jitted: one solver step. `state` is donated.

        `gaps` holds for each node the distance between the shadows.
        """

        def step(state: State, data: Sequence[Array]) -> tuple[State, Array]:
            with on_mesh(self.mesh):
                state, squared = self.solver.step(self._problem(data), state)
                return state, jnp.sqrt(squared)

        return jax.jit(
            step,
            in_shardings=(self.state, list(self.data)),
            out_shardings=(self.state, self.replicated),
            donate_argnums=0,
        )

    def _problem(self, data: Sequence[Array]) -> AbstractProblem:
        arrays: Any = ([], list(data), list(self.captured))
        return make_problem(self.graph, self.solver, arrays, self.placement)

    def abstract_state(self) -> State:
        """Shapes, dtypes and shardings of the state."""
        parameters, data = self.abstract_arguments()
        shapes = jax.eval_shape(self.init, parameters, data)
        return jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            shapes,
            self.state,
        )

    def abstract_arguments(self) -> tuple[list[Any], list[Any]]:
        """Shapes, dtypes and shardings of the parameters and of the data."""
        function = self.graph.function
        return tuple(  # type: ignore[return-value]
            [
                jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding)
                for value, sharding in zip(values, shardings, strict=True)
            ]
            for values, shardings in (
                (function.parameters, self.parameters),
                (function.data, self.data),
            )
        )


def make_plan(
    fn: Callable[..., Any],
    params: Any,
    *args: Any,
    solver: AbstractSolver,
    mesh: Mesh,
    rules: Iterable[Rule] = (),
    inputs: Sequence[PartitionSpec] | None = None,
) -> Plan:
    """Divides the feasibility problem of a function over a mesh.

    Examples (the leading axis of every array in `args`) are divided over `data` and `fsdp`; features of
    parameters and values over `model`; copies of a product of P rows and Q columns over all three;
    parameters stacked for a loop, and its iterations with them, over `stage`. Between its uses a
    parameter is divided over `fsdp`, too. What an elementary
    constraint needs at once is never divided, and an array whose features the mesh does not
    divide keeps them whole. Values never depend on the mesh.

    **Arguments:**

    - `fn`, `params`, `args`, `solver`: as for `pjp.solve`; arrays or `jax.ShapeDtypeStruct`s.
    - `mesh`: with any of the axes `data`, `fsdp`, `model`, `stage`. The solver works on these devices with
      axes of type Auto; arrays that are typed by an Explicit mesh are moved by `Plan.shard`.
    - `rules`: shardings of parameters in place of the default (see `rules.Rule`).
    - `inputs`: shardings of the arrays in `args` in place of the default.

    **Errors:** those of `solve`; `ArgumentError` for a batch, or an axis in a rule, that the mesh does
    not divide, and for unknown names in a rule.
    """
    if AxisType.Explicit in mesh.axis_types:
        mesh = Mesh(mesh.devices, mesh.axis_names)
    if is_other_set(mesh):  # whose types arrays have
        params, args = jtu.tree_map(_without_type, (params, args))
    with on_mesh(mesh):
        prepared = FeasibilityProblem.of(fn, params, *args)
        graph = prepared.graph_for(solver)
    given = len([leaf for leaf in jtu.tree_leaves(args) if is_data(leaf)])
    data = _input_specs(mesh, [x.shape for x in prepared.data], given, inputs)
    paths = {path_of(graph.nodes[node].name): node for node in graph.parameters if node is not None}
    shapes = {path: _shape(graph, node) for path, node in paths.items()}
    chosen = apply_rules(rules, shapes, mesh)
    given_labels = {paths[path]: _labels(spec, shapes[path]) for path, spec in chosen.items()}
    with on_mesh(mesh):
        labels = label_graph(
            graph,
            [_labels(spec, x.shape) for spec, x in zip(data, prepared.data, strict=True)],
            {node: when_used(labels) for node, labels in given_labels.items()},
            lambda shape, labels: _fit(mesh, shape, labels),
            MODEL,
            STAGE,
        )
    at_rest = {
        node: given_labels.get(node) or between_uses(mesh, _shape(graph, node), labels.outputs[node] or ())
        for node in paths.values()
    }
    layouts: dict[int, Stationary] = {}
    if solver.form == "compressed":
        moved, layouts = choose_stationary(graph, labels, at_rest, given_labels, mesh)
        at_rest |= moved
    labels = labels.between_uses(
        graph,
        at_rest,
        lambda shape, labels: when_summed(mesh, shape, labels),
        {node: layout.side for node, layout in layouts.items()},
    )

    def sharding(labels: Labels | None) -> NamedSharding | None:
        return None if labels is None else NamedSharding(mesh, PartitionSpec(*labels))

    def shardings(several: Sequence[Sequence[Labels]]) -> tuple[tuple[NamedSharding, ...], ...]:
        return tuple(tuple(NamedSharding(mesh, PartitionSpec(*x)) for x in of) for of in several)

    outputs = tuple(map(sharding, labels.outputs))
    copies = shardings(labels.copies)
    replicated = NamedSharding(mesh, PartitionSpec())
    placement = Placement(
        outputs,
        shardings(labels.operands),
        shardings(labels.means),
        copies,
        # No state holds what a loss produces.
        PROBLEMS[solver.form](graph, {}).arrange([replicated if x is None else x for x in outputs], copies),
        tuple(layouts.items()),
    )
    parameters = tuple(
        replicated if node is None else placement.outputs[node] or replicated for node in graph.parameters
    )
    inputs_of = tuple(NamedSharding(mesh, spec) for spec in data)
    return Plan(mesh, solver, graph, parameters, inputs_of, placement, tuple(prepared.captured))


def _without_type(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if is_data(leaf) else leaf


def _input_specs(
    mesh: Mesh, shapes: Sequence[tuple[int, ...]], given: int, inputs: Sequence[PartitionSpec] | None
) -> list[PartitionSpec]:
    """Specs of all data arrays; the last `given` are those among the arguments."""
    fixed = [PartitionSpec()] * (len(shapes) - given)
    of_arguments = shapes[len(fixed) :]
    if inputs is not None:
        if len(inputs) != given:
            raise ArgumentError(f"inputs: expected a spec for each of {given} arrays, given {len(inputs)}")
        for number, (spec, shape) in enumerate(zip(inputs, of_arguments, strict=True)):
            check_spec(f"inputs[{number}]", spec, shape, mesh)
        return [*fixed, *inputs]
    parts = example_parts(mesh)
    for number, shape in enumerate(of_arguments):
        if shape and shape[0] % parts:
            raise ArgumentError(
                f"args: array {number} has {shape[0]} examples, which {describe_parts(mesh)} does not "
                "divide; choose another batch size or mesh, or say with inputs=... how it is divided"
            )
    spec = PartitionSpec(examples(mesh)) if parts > 1 else PartitionSpec()
    return [*fixed, *(spec if shape else PartitionSpec() for shape in of_arguments)]


def _shape(graph: ConstraintGraph, node: int) -> tuple[int, ...]:
    output = graph.nodes[node].output
    assert output is not None
    return output.shape


def _labels(spec: PartitionSpec, shape: tuple[int, ...]) -> Labels:
    return (*spec, *(None,) * (len(shape) - len(spec)))


def _fit(mesh: Mesh, shape: tuple[int, ...], labels: Labels) -> Labels:
    """The labels that divide an array of this shape into several equal parts."""

    def fits(size: int, label: Any) -> bool:
        names = axis_names(label)
        parts = divisor(names, mesh) if set(names) <= mesh.shape.keys() else 1
        return parts > 1 and size % parts == 0

    return tuple(label if fits(size, label) else None for size, label in zip(shape, labels, strict=True))
