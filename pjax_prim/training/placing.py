"""Where a run's arrays lie: on one device, or on a mesh over the devices of all processes."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array

import pjax_prim as pjp

from .. import data
from ..data import Dataset
from ..problem import Placement
from ..sharding import make_mesh, make_plan
from ..sharding.processes import distribute, from_local_rows, local_rows, whole
from .config import FROM_FORWARD_PASS, TrainConfig
from .state import TrainState
from .steps import batch_key, make_loss, make_solver

Step = Callable[..., tuple[TrainState, dict[str, Array]]]


class Placing:
    """Without a mesh, and in one process, everything lies on the first device.

    On a mesh, parameters, what is derived from each of them, and the solver's state are divided as
    `pjax_prim.sharding` plans; examples are divided over the mesh's data axis, and each process reads
    only its own.

    **Errors:** `ArgumentError` for a mesh that does not fit the devices or the batch.
    """

    def __init__(self, config: TrainConfig, dataset: Dataset, state: TrainState):
        self.config = config
        self.placement: Placement | None = None
        mesh = config.mesh or ("data=-1" if jax.process_count() > 1 else None)
        self.plan = None
        if mesh is None:
            return
        x, labels = (
            jax.ShapeDtypeStruct((config.batch_size, *array.shape[1:]), array.dtype)
            for array in (dataset.train_x, dataset.train_y)
        )
        key = batch_key(config, state)
        without_copies = config.solver in FROM_FORWARD_PASS
        self.plan = make_plan(
            make_loss(config),
            state.model,
            *((x, labels) if key is None else (x, labels, key)),
            solver=pjp.AlternatingProjections() if without_copies else make_solver(config),
            mesh=make_mesh(mesh),
        )
        if not without_copies:
            self.placement = self.plan.placement
        self._by_path = {
            jtu.keystr(path): (leaf.shape, sharding)
            for (path, leaf), sharding in zip(
                jtu.tree_leaves_with_path(eqx.filter(state.model, eqx.is_inexact_array)),
                self.plan.parameters,
                strict=True,
            )
        }

    def state(self, state: TrainState) -> TrainState:
        """A state that every process has whole, in its place."""
        if self.plan is None:
            return state
        arrays, static = eqx.partition(state, eqx.is_array)
        leaves, structure = jtu.tree_flatten(arrays)
        placed = [distribute(x, s) for x, s in zip(leaves, self._shardings(arrays), strict=True)]
        return eqx.combine(jtu.tree_unflatten(structure, placed), static)

    def whole(self, tree: Any) -> Any:
        """A tree with every array whole on this process; all processes call it together."""
        return whole(tree)

    def batches(self, dataset: Dataset, start: int) -> Iterator[tuple[Any, Any]]:
        """Features and labels of the batches from `start` on; each process reads what its devices hold."""
        size, seed, stop = self.config.batch_size, self.config.seed, self.config.batches
        if self.plan is None:
            return data.batches(lambda step: data.batch(dataset, size, seed=seed, step=step), start, stop)
        shardings = self.plan.data[-3 if self.config.dropout else -2 :][:2]
        arrays = dataset.train_x, dataset.train_y

        def read(step: int) -> tuple[np.ndarray, ...]:
            chosen = data.batch_indices(len(dataset.train_x), size, seed=seed, step=step)
            return tuple(
                array[chosen[local_rows(sharding, size)]]
                for array, sharding in zip(arrays, shardings, strict=True)
            )

        def place(rows: tuple[np.ndarray, ...]) -> tuple[Array, Array]:
            x, labels = (
                from_local_rows(sharding, array, size)
                for array, sharding in zip(rows, shardings, strict=True)
            )
            return x, labels

        return map(place, data.batches(read, start, stop))

    def compile(self, step: Step, state: TrainState, batch: tuple[Any, Any]) -> Step:
        """`step(state, x, labels) -> (state, metrics)`, compiled.

        On a mesh with the shardings of arguments and results given; the state's memory is taken over.
        """
        if self.plan is None:
            jitted: Any = eqx.filter_jit(step)
            return jitted.lower(state, *batch).compile()
        plan = self.plan
        arrays, static = eqx.partition(state, eqx.is_array)
        leaves, structure = jtu.tree_flatten(arrays)
        after: Any
        after, _ = eqx.filter_eval_shape(step, state, *batch)
        new_arrays, new_static = eqx.partition(after, lambda x: isinstance(x, jax.ShapeDtypeStruct))

        def run(leaves: list[Array], x: Array, labels: Array) -> tuple[list[Array], dict[str, Array]]:
            state = eqx.combine(jtu.tree_unflatten(structure, leaves), static)
            new, metrics = step(state, x, labels)
            return jtu.tree_leaves(eqx.filter(new, eqx.is_array)), metrics

        jitted = jax.jit(
            run,
            in_shardings=(self._shardings(arrays), *(x.sharding for x in batch)),
            out_shardings=(self._shardings(new_arrays), plan.replicated),
            donate_argnums=0,
        )
        with warnings.catch_warnings():
            # The last chunk of a batch takes a solver's state and gives none.
            warnings.filterwarnings("ignore", "Some donated buffers were not usable")
            compiled = jitted.lower(leaves, *batch).compile()
        new_structure = jtu.tree_structure(new_arrays)

        def call(state: TrainState, x: Array, labels: Array) -> tuple[TrainState, dict[str, Array]]:
            given = jtu.tree_leaves(eqx.filter(state, eqx.is_array))
            found, metrics = compiled(given, x, labels)
            return eqx.combine(jtu.tree_unflatten(new_structure, found), new_static), metrics

        return call

    def _shardings(self, arrays: TrainState) -> list[NamedSharding]:
        """Of the arrays of a state: those of a solver's state, and of what belongs to a parameter.

        An array belongs to a parameter if its path ends in the parameter's and it has its shape.
        """
        assert self.plan is not None
        if self.placement is not None:
            of_solver = iter(jtu.tree_leaves(self.placement.state))
        found = []
        for path, leaf in jtu.tree_leaves_with_path(arrays):
            if self.placement is not None and path[0] == jtu.GetAttrKey("solver"):
                found.append(next(of_solver))
                continue
            text = jtu.keystr(path)
            matching = [
                (len(end), sharding)
                for end, (shape, sharding) in self._by_path.items()
                if text.endswith(end) and shape == leaf.shape
            ]
            found.append(max(matching, key=lambda x: x[0])[1] if matching else self.plan.replicated)
        return found
