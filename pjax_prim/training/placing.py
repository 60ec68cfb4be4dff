"""Where a run's arrays lie: on one device, or on a mesh over the devices of all processes."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.tree_util as jtu
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding
from jaxtyping import Array

from ..errors import ArgumentError
from ..explicit_axes import in_automatic_axes, is_other_set, on_mesh
from ..problem import Placement
from ..sharding import Plan, make_mesh, make_plan
from ..sharding.gathering import gathered_by_layer, stacked_axes, with_right_derivatives
from ..sharding.mesh import DATA, FSDP, MODEL, describe_parts, example_parts, examples
from ..sharding.processes import distribute, from_local_rows, local_rows
from ..sharding.rules import apply_rules, default_spec
from .config import TrainConfig
from .methods import FROM_FORWARD_PASS
from .state import TrainState
from .steps import Step, batch_key
from .task import Task, TaskLoss

Metrics = dict[str, Array]


@contextmanager
def donating() -> Iterator[None]:
    """Compiles a step without JAX's warning of memory that it could not take over: the last chunk of a batch
    takes a solver's state and gives none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Some donated buffers were not usable")
        yield


def is_abstract(leaf: Any) -> bool:
    """Whether it stands for an array."""
    return isinstance(leaf, jax.ShapeDtypeStruct)


class Packed(NamedTuple):
    """A state as the list of its arrays, which is what steps hand on, and all else of it."""

    leaves: list[Any]
    structure: Any
    static: Any

    @classmethod
    def of(cls, state: TrainState, is_array: Callable[[Any], bool] = eqx.is_array) -> "Packed":
        """The state, taken apart."""
        arrays, static = eqx.partition(state, is_array)
        leaves, structure = jtu.tree_flatten(arrays)
        return cls(leaves, structure, static)

    @property
    def arrays(self) -> TrainState:
        """The state with None in the place of all that is no array."""
        arrays: TrainState = jtu.tree_unflatten(self.structure, self.leaves)
        return arrays

    @property
    def state(self) -> TrainState:
        """The state, put together."""
        state: TrainState = eqx.combine(self.arrays, self.static)
        return state


PackedStep = Callable[[Packed, Any], tuple[Packed, Metrics]]


class Placing:
    """Without a mesh, and in one process, everything lies on the first device.

    On a mesh examples are divided over its axes `data` and `fsdp`, and each process reads only its own. The
    parameters of a projection solver, what is derived from them and the solver's state are divided as
    `pjax_prim.sharding` plans; for all other methods parameters are as `default_spec` says, and gathered
    layer by layer where they are used. Rules of the task replace that. What belongs to a parameter (moving
    averages, an optimiser's memory) lies where that does.

    **Arguments:** `state`, `batch`: shapes and dtypes of the state before the first batch and of a batch;
    `devices`, all of this program's if None.

    **Errors:** `ArgumentError` for a mesh that does not fit the devices, the batch or the rules.
    """

    def __init__(
        self,
        config: TrainConfig,
        task: Task,
        state: TrainState,
        batch: Any,
        devices: Sequence[Any] | None = None,
    ):
        text = config.mesh or (f"{DATA}=-1" if jax.process_count() > 1 else None)
        self.mesh = None if text is None else make_mesh(text, devices)
        self.placement: Placement | None = None
        self.plan: Plan | None = None
        self._takes_gradients = config.method.solver != "displacement"
        self._parameters: dict[str, tuple[tuple[int, ...], NamedSharding]] = {}
        if self.mesh is None:
            return
        self.check(batch)
        trained, frozen = task.split(state.model)
        key = eqx.filter_eval_shape(batch_key, state)
        if config.method.solver in FROM_FORWARD_PASS:
            shardings = self._by_shape(config, task, trained, (frozen, state.model_state, batch, key))
        else:
            arguments = frozen, state.model_state, batch, key
            still = [jtu.tree_map(lambda _: PartitionSpec(), x) for x in arguments]
            still[2] = jtu.tree_map(lambda x: self.rows(x).spec, batch)
            arrays = [
                spec
                for tree, specs in zip(arguments, still, strict=True)
                for leaf, spec in zip(
                    jtu.tree_leaves(tree), jtu.tree_leaves(specs, is_leaf=_is_spec), strict=True
                )
                if is_abstract(leaf)
            ]
            self.plan = make_plan(
                TaskLoss(task, config.method.compute_dtype).value, trained, *arguments,
                solver=config.method.make_solver(), mesh=self.mesh, rules=task.shardings, inputs=arrays,
            )  # fmt: skip
            self.mesh = self.plan.mesh
            self.placement, shardings = self.plan.placement, list(self.plan.parameters)
        for (path, leaf), sharding in zip(jtu.tree_leaves_with_path(trained), shardings, strict=True):
            self._parameters[jtu.keystr(path)] = leaf.shape, sharding

    def _by_shape(
        self, config: TrainConfig, task: Task, trained: Any, rest: tuple[Any, ...]
    ) -> list[NamedSharding]:
        assert self.mesh is not None
        shapes = {
            jtu.keystr(path, simple=True, separator="."): leaf.shape
            for path, leaf in jtu.tree_leaves_with_path(trained)
        }
        chosen = apply_rules(task.shardings, shapes, self.mesh)
        loss = TaskLoss(task, config.method.compute_dtype)
        arrays, static = eqx.partition(rest, is_abstract)

        def value(trained: Any, arrays: Any) -> Any:
            return loss.value(trained, *eqx.combine(arrays, static))

        stacked = [0] * len(shapes)
        if self.mesh.shape[FSDP] * self.mesh.shape[MODEL] > 1:
            stacked = stacked_axes(jax.make_jaxpr(value)(trained, arrays), len(shapes))
        return [
            NamedSharding(self.mesh, chosen.get(path) or default_spec(self.mesh, shape, loops))
            for (path, shape), loops in zip(shapes.items(), stacked, strict=True)
        ]

    def gathering(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        """A function of the trained arrays and more, with those that are divided over `fsdp` gathered where
        it uses them."""
        if self.mesh is None:
            return loss
        specs = [sharding.spec for _, sharding in self._parameters.values()]
        gathered = gathered_by_layer(loss, self.mesh, specs)
        return with_right_derivatives(gathered) if self._takes_gradients else gathered

    def evaluating(self, figures: Callable[..., Any]) -> Callable[..., Any]:
        """A function of a model in its place, and more. Where parameters are divided over `fsdp` on a mesh of
        explicit axes, it runs with automatic ones."""
        mesh = self.mesh
        if mesh is None:
            return figures
        run = figures if mesh.shape[FSDP] == 1 else partial(in_automatic_axes, figures)

        def evaluated(*arguments: Any) -> Any:
            with on_mesh(mesh):
                return run(*arguments)

        return evaluated

    @property
    def devices(self) -> list[jax.Device]:
        """All that hold arrays."""
        return jax.devices()[:1] if self.mesh is None else list(self.mesh.devices.flat)

    @property
    def device(self) -> SingleDeviceSharding:
        """Without a mesh, where everything lies. Said of every array: a step is compiled once, whether its
        arrays were made, restored or come from another step."""
        return SingleDeviceSharding(self.devices[0])

    @property
    def replicated(self) -> NamedSharding:
        """The sharding of what every device of the mesh has whole."""
        assert self.mesh is not None
        return NamedSharding(self.mesh, PartitionSpec())

    def rows(self, array: Any) -> NamedSharding:
        """The sharding of an array of a batch: its examples are divided; a number is whole everywhere."""
        assert self.mesh is not None
        return NamedSharding(
            self.mesh, PartitionSpec(examples(self.mesh)) if len(array.shape) else PartitionSpec()
        )

    def check(self, batch: Any) -> None:
        """`ArgumentError` where the mesh does not divide a batch."""
        if self.mesh is None:
            return
        parts = example_parts(self.mesh)
        for path, leaf in jtu.tree_leaves_with_path(batch):
            if leaf.shape and leaf.shape[0] % parts:
                name = jtu.keystr(path, simple=True, separator=".") or "the array"
                raise ArgumentError(
                    f"batch: {name} has {leaf.shape[0]} examples, which {describe_parts(self.mesh)} does not "
                    "divide; choose another batch size or mesh"
                )

    @property
    def own_rows(self) -> Callable[[int], Any] | None:
        """The rows that this process reads of a batch, by their number; None where it reads all."""
        mesh = self.mesh
        if mesh is None or jax.process_count() == 1:
            return None
        return lambda count: local_rows(NamedSharding(mesh, PartitionSpec(examples(mesh))), count)

    def batch(self, batch: Any, counts: Any) -> Any:
        """A batch that was read, in its place.

        **Arguments:** `counts`: a tree with the numbers of rows of all processes; `own_rows` of them were
        read.
        """
        if self.mesh is None:
            return jax.device_put(batch, self.device)
        if self.own_rows is None:
            self.check(batch)
            return jtu.tree_map(lambda x: jax.device_put(x, self.rows(x)), batch)
        return jtu.tree_map(
            lambda x, rows: from_local_rows(self.rows(x), x, rows) if x.ndim else distribute(x, self.rows(x)),
            batch,
            counts,
        )

    def whole_batch(self, batch: Any) -> Any:
        """A batch that every process has whole, in its place; whole on every device where the mesh does not
        divide it."""
        if self.mesh is None:
            return jax.device_put(batch, self.device)
        parts = example_parts(self.mesh)
        divided = all(not x.shape or x.shape[0] % parts == 0 for x in jtu.tree_leaves(batch))
        return jtu.tree_map(lambda x: distribute(x, self.rows(x) if divided else self.replicated), batch)

    def init(self, make: Callable[..., TrainState], *given: Any) -> TrainState:
        """`make(*given)`, each array made where it belongs, so that no host needs to have it whole."""
        shapes = eqx.filter_eval_shape(make, *given)
        packed = Packed.of(shapes, is_abstract)
        arrays, static = eqx.partition(given, eqx.is_array)
        if is_other_set(self.mesh):  # whose type they have
            arrays = jax.device_put(arrays, self.replicated)

        def leaves(arrays: Any) -> list[Array]:
            with on_mesh(self.mesh):
                made = jtu.tree_leaves(eqx.filter(make(*eqx.combine(arrays, static)), eqx.is_array))
                return [_strong(x) for x in made]

        places = self.device if self.mesh is None else self.shardings(packed.arrays)
        return packed._replace(leaves=jax.jit(leaves, out_shardings=places)(arrays)).state

    def abstract(self, state: TrainState) -> TrainState:
        """The shapes of a state with the shardings of its arrays."""
        if self.mesh is None:
            return state
        packed = Packed.of(state, is_abstract)
        placed = [
            jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
            for x, sharding in zip(packed.leaves, self.shardings(packed.arrays), strict=True)
        ]
        return packed._replace(leaves=placed).state

    def abstract_batch(self, batch: Any) -> Any:
        """The shapes of a batch with the shardings of its arrays."""
        if self.mesh is None:
            return batch
        return jtu.tree_map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.rows(x)), batch)

    def jit(self, step: Step, packed: Packed, batch: Any) -> tuple[Any, Callable[[], tuple[Any, Any]]]:
        """A step from the arrays of a state and a batch to those of the next state and metrics, jitted. The
        memory of the given arrays is taken over.

        **Returns:** it, and a function that gives structure and static part of the next state once it was
        traced.
        """
        structure, static = packed.structure, packed.static
        after: list[Any] = []

        def run(leaves: list[Array], batch: Any) -> tuple[list[Array], Metrics]:
            state: TrainState = eqx.combine(jtu.tree_unflatten(structure, leaves), static)
            with on_mesh(self.mesh):
                new, metrics = step(state, batch)
            arrays, rest = eqx.partition(new, eqx.is_array)
            found, tree = jtu.tree_flatten(arrays)
            after[:] = [tree, rest, arrays]
            with on_mesh(self.mesh):
                return [_strong(x) for x in found], metrics

        if self.mesh is None:
            return jax.jit(run, donate_argnums=0), lambda: (after[0], after[1])
        jax.eval_shape(run, packed.leaves, batch)
        jitted = jax.jit(
            run,
            in_shardings=(self.shardings(packed.arrays), jtu.tree_map(self.rows, batch)),
            out_shardings=(self.shardings(after[2]), self.replicated),
            donate_argnums=0,
        )
        return jitted, lambda: (after[0], after[1])

    def compile(self, step: Step, packed: Packed, batch: Any) -> PackedStep:
        """A step that is compiled when it is first called."""
        jitted, after = self.jit(step, packed, batch)
        compiles = True

        def call(packed: Packed, batch: Any) -> tuple[Packed, Metrics]:
            nonlocal compiles
            with donating() if compiles else nullcontext():
                compiles = False
                leaves, metrics = jitted(packed.leaves, batch)
            return Packed(leaves, *after()), metrics

        return call

    def shardings(self, arrays: TrainState) -> list[NamedSharding]:
        """The shardings of the arrays of a state: of a solver's state, and of what belongs to a parameter.

        An array belongs to a parameter if its path ends in the parameter's and it has its shape.
        """
        if self.placement is not None:
            assert self.plan is not None
            of_solver = iter(jtu.tree_leaves(self.plan.state))
        found = []
        for path, leaf in jtu.tree_leaves_with_path(arrays):
            if self.placement is not None and path[0] == jtu.GetAttrKey("solver"):
                found.append(next(of_solver))
                continue
            text = jtu.keystr(path)
            matching = [
                (len(end), sharding)
                for end, (shape, sharding) in self._parameters.items()
                if text.endswith(end) and shape == leaf.shape
            ]
            found.append(max(matching, key=lambda x: x[0])[1] if matching else self.replicated)
        return found


def _strong(array: Array) -> Array:
    """The array without JAX's note that its type is that of a Python number: a step would be compiled once
    more when it goes."""
    return jax.lax.convert_element_type(array, array.dtype) if getattr(array, "weak_type", False) else array


def _is_spec(leaf: Any) -> bool:
    return isinstance(leaf, PartitionSpec)
