"""What a function may be given and may return: which arrays are trained, which are data, what is refused."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from .errors import ArgumentError


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


def check_sizes(args: tuple[Any, ...]) -> None:
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


def as_array(leaf: Any) -> Any:
    """A leaf as a JAX array; a shape stays one."""
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
