"""Functions of arrays that are typed by a mesh of explicit axes, run with these axes as automatic ones."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def in_automatic_axes(function: Callable[..., Any], *arguments: Any, like: Sequence[Any] = ()) -> Any:
    """`function(*arguments)`, whose program need not say how each of its values is divided.

    The compiler's propagation divides them. Where no array is typed by an explicit mesh, nothing changes.

    **Arguments:** `like`, arrays in whose places the first results lie; all other results are whole on every
    device.

    **Returns:** what the function returns, a pytree whose leaves are arrays or static.
    """
    dynamic, static = eqx.partition(arguments, eqx.is_array)
    meshes = [mesh for leaf in jax.tree.leaves(dynamic) if (mesh := _explicit_mesh(leaf)) is not None]
    if not meshes:
        return function(*arguments)
    rest: list[Any] = []

    def run(dynamic: Any) -> Any:
        results, rest[:] = _split(function(*eqx.combine(dynamic, static)))
        return results

    with jax.sharding.use_abstract_mesh(_automatic(meshes[0])):
        shapes = jax.eval_shape(run, jax.tree.map(_without_sharding, dynamic))
    specs = [jax.typeof(x).sharding.spec for x in like]
    places = [*specs, *(PartitionSpec() for _ in shapes[len(specs) :])]
    with jax.sharding.use_abstract_mesh(meshes[0]):
        mapped = jax.sharding.auto_axes(run, axes=_explicit_names(meshes[0]), out_sharding=places)
        results = mapped(dynamic)
    structure, static_results = rest
    return eqx.combine(jax.tree.unflatten(structure, results), static_results)


def is_other_set(mesh: Any) -> bool:
    """Whether the caller has set another mesh of as many devices (`jax.set_mesh`)."""
    present = jax.sharding.get_abstract_mesh()
    return not (mesh is None or present.empty or present.size != mesh.size or present == mesh.abstract_mesh)


@contextmanager
def on_mesh(mesh: Any) -> Iterator[None]:
    """Traces what runs on a mesh, also where the caller has set another one of as many devices."""
    if not is_other_set(mesh):
        yield
        return
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        yield


@contextmanager
def automatic_trace(arrays: Sequence[Any]) -> Iterator[list[Any]]:
    """Gives the arrays without their typed shardings, to trace what will run in `in_automatic_axes`.

    Where no array is typed by an explicit mesh, nothing changes.
    """
    meshes = [
        mesh
        for leaf in arrays
        if not isinstance(leaf, jax.ShapeDtypeStruct) and (mesh := _explicit_mesh(leaf)) is not None
    ]
    if not meshes:
        yield list(arrays)
        return
    with jax.sharding.use_abstract_mesh(_automatic(meshes[0])):
        yield [x if isinstance(x, jax.ShapeDtypeStruct) else _without_sharding(x) for x in arrays]


@contextmanager
def without_mesh(arguments: Any) -> Iterator[Any]:
    """Sets no mesh, for eager loops of several programs, which say themselves where they run.

    It gives the arguments, a pytree, whose arrays are divided as before over axes that are not explicit.
    """
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        yield arguments
        return
    automatic = with_automatic_axes(mesh)

    def retyped(leaf: Any) -> Any:
        sharding = getattr(leaf, "sharding", None)
        if not isinstance(sharding, NamedSharding):
            return leaf
        return jax.device_put(leaf, NamedSharding(automatic, sharding.spec))

    with jax.set_mesh(Mesh(np.empty((), object), ())):
        yield jax.tree.map(retyped, arguments)


def with_automatic_axes(mesh: Mesh) -> Mesh:
    """A mesh of the same devices whose explicit axes are automatic."""
    kinds = (AxisType.Auto if kind == AxisType.Explicit else kind for kind in mesh.axis_types)
    return Mesh(mesh.devices, mesh.axis_names, axis_types=tuple(kinds))


def _split(returned: Any) -> tuple[list[Any], list[Any]]:
    arrays, static = eqx.partition(returned, eqx.is_array)
    leaves, structure = jax.tree.flatten(arrays)
    return leaves, [structure, static]


def _explicit_mesh(leaf: Any) -> Any | None:
    mesh = getattr(jax.typeof(leaf).sharding, "mesh", None)
    return mesh if mesh is not None and _explicit_names(mesh) else None


def _automatic(mesh: Any) -> Any:
    return mesh.update_axis_types(dict.fromkeys(_explicit_names(mesh), AxisType.Auto))


def _explicit_names(mesh: Any) -> tuple[str, ...]:
    pairs = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return tuple(name for name, kind in pairs if kind == AxisType.Explicit)


def _without_sharding(leaf: Any) -> jax.ShapeDtypeStruct:
    aval = jax.typeof(leaf)
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=getattr(aval, "weak_type", False))
