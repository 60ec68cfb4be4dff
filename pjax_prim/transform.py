"""The transformation: from a function of a model to its constraint graph."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from .errors import ArgumentError, GraphError
from .graph import ConstraintGraph, build_graph
from .primitives._arguments import check_labels as check_one_hot
from .primitives._arguments import check_signs, is_concrete
from .rules.losses import CLASSIFICATION, Loss
from .rules.threshold import ThresholdDot


@dataclass(frozen=True)
class Prepared:
    """A function's graph and the arrays it is to be solved with.

    - `graph`: not two-coloured.
    - `parameters`: what is trained; `data`: the arrays among the other arguments.
    - `restore`: from new parameters to a model of the original structure.
    - `tree`: from arrays, one per parameter, to a pytree of that structure with None elsewhere.
    """

    graph: ConstraintGraph
    parameters: list[Any]
    data: list[Any]
    restore: Callable[[list[Any]], Any]
    tree: Callable[[list[Any]], Any]


def constraint_graph(fn: Callable[..., Any]) -> Callable[..., ConstraintGraph]:
    """The constraint graph of a function: `constraint_graph(fn)(params, *args)`.

    As `jax.make_jaxpr`, it only traces; `print` it to see every constraint with its shape,
    set, number of copies and bytes.

    **Arguments:** `fn(params, *args)`, a function of an Equinox model or any pytree of arrays
    that returns the loss node(s).

    **Returns:** a function of the same arguments (arrays or `jax.ShapeDtypeStruct`s) that
    returns the two-coloured `ConstraintGraph`.

    **Errors:** those of `solve`.
    """

    def make(params: Any, *args: Any) -> ConstraintGraph:
        return prepare(fn, params, args).graph.two_coloured

    return make


def prepare(fn: Callable[..., Any], params: Any, args: tuple[Any, ...]) -> Prepared:
    """Checks the arguments of a transformation and builds the graph.

    The graph is cached by the function, the structure of its arguments and their shapes, so
    that solving batch after batch traces once.
    """
    if not callable(fn):
        raise ArgumentError(f"fn: expected a function of (params, *args), given {fn!r}")
    check_parameters(params)
    trained, fixed = eqx.partition(params, is_trained)
    with_paths, treedef = jtu.tree_flatten_with_path(trained)
    names = tuple(jtu.keystr(path) or "params" for path, _ in with_paths)
    parameters = [_as_array(leaf) for _, leaf in with_paths]
    moving, still = eqx.partition((fixed, args), is_data)
    data, data_treedef = jtu.tree_flatten(moving)
    data = [_as_array(leaf) for leaf in data]

    def tree(arrays: list[Any]) -> Any:
        return jtu.tree_unflatten(treedef, arrays)

    def restore(new: list[Any]) -> Any:
        return eqx.combine(tree(new), fixed)

    still_leaves, still_treedef = jtu.tree_flatten(still)
    key = _Key(
        fn,
        treedef,
        data_treedef,
        still_treedef,
        tuple(still_leaves),
        tuple(_abstract(x) for x in parameters),
        tuple(_abstract(x) for x in data),
        names,
    )
    try:
        graph = _cached_graph(key)
    except (_NotCached, TypeError) as error:
        if isinstance(error, TypeError) and "unhashable" not in str(error):
            raise
        graph = _build(key)
    return Prepared(graph, parameters, data, restore, tree)


def check_labels(graph: ConstraintGraph, data: list[Any]) -> None:
    """Checks the labels of classification losses and of threshold neurons, where their values are known."""
    classes = [
        value
        for node in graph.nodes
        if isinstance(node.constraint, Loss) and node.constraint.name in CLASSIFICATION
        for value in node.constants
    ]
    signs = [
        value
        for node in graph.nodes
        if isinstance(node.constraint, Loss) and node.constraint.name == "equality"
        if all(isinstance(graph.nodes[x].constraint, ThresholdDot) for x in node.operands[0].producers)
        for value in node.constants
    ]
    if not (classes or signs) or not all(is_concrete(x) for x in (*data, *_captured(graph))):
        return
    environment = graph.constants(data)
    for value in classes:
        count = value.shape[-1]
        name = f"labels (as one-hot vectors; an integer outside 0 to {count - 1} has no 1)"
        check_one_hot(environment[value], count, name)
    for value in signs:
        check_signs(environment[value])


@dataclass(frozen=True)
class _Key:
    fn: Callable[..., Any]
    treedef: Any
    data_treedef: Any
    still_treedef: Any
    still_leaves: tuple[Any, ...]
    parameters: tuple[Any, ...]
    data: tuple[Any, ...]
    names: tuple[str, ...]


class _NotCached(Exception):
    """The graph captures tracers, which must not outlive their trace."""


@lru_cache(maxsize=64)
def _cached_graph(key: _Key) -> ConstraintGraph:
    graph = _build(key)
    if not all(is_concrete(x) for x in _captured(graph)):
        raise _NotCached
    return graph


def _captured(graph: ConstraintGraph) -> list[Any]:
    return [array for _, array in graph.function.captured]


def _build(key: _Key) -> ConstraintGraph:
    def function(parameters: list[Any], data: list[Any]) -> list[Any]:
        still = jtu.tree_unflatten(key.still_treedef, key.still_leaves)
        moving = jtu.tree_unflatten(key.data_treedef, data)
        fixed, args = eqx.combine(moving, still)
        model = eqx.combine(jtu.tree_unflatten(key.treedef, parameters), fixed)
        returned = key.fn(model, *args)
        results = [x for x in jtu.tree_leaves(returned) if eqx.is_array_like(x)]
        if not results:
            raise GraphError(f"fn: returned no array but {returned!r}; return the losses")
        return results

    return build_graph(function, key.parameters, key.data, key.names)


def is_trained(leaf: Any) -> bool:
    """Whether a leaf of the parameters is an array that is trained."""
    return _is_arraylike(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


def is_data(leaf: Any) -> bool:
    """Whether another leaf is an array rather than a static value."""
    return _is_arraylike(leaf)


def _is_arraylike(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _as_array(leaf: Any) -> Any:
    return leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jnp.asarray(leaf)


def _abstract(array: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


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
        if isinstance(leaf, np.ma.MaskedArray):
            raise ArgumentError(f"{name}: expected an array without a mask, given a masked one; fill it")
        if not dtype.isnative:
            raise ArgumentError(f"{name}: expected the byte order of this machine, {given}")
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
