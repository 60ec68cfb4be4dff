"""A tree as named arrays: what is written, compared and restored, by the path of each leaf."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
from jaxtyping import PyTree

from ..errors import CheckpointError


def is_abstract(leaf: Any) -> bool:
    """Whether a leaf has a shape and a dtype but no values."""
    return isinstance(leaf, jax.ShapeDtypeStruct)


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array, or stands for one."""
    return eqx.is_array(leaf) or is_abstract(leaf)


def named_arrays(tree: PyTree) -> dict[str, Any]:
    """The arrays of a tree by their paths, such as `model.layers.0.weight`.

    **Errors:** `CheckpointError` where two paths read the same.
    """
    named: dict[str, Any] = {}
    for path, leaf in jtu.tree_flatten_with_path(tree)[0]:
        if is_array(leaf):
            name = _name(path)
            if name in named:
                raise CheckpointError(f"{name}: two arrays of the tree have this path")
            named[name] = leaf
    return named


def named_settings(tree: PyTree) -> dict[str, Any]:
    """The numbers, flags and texts among the leaves of a tree, by their paths.

    They are no arrays, so a checkpoint records them only to compare them on restore.
    """
    return {
        _name(path): leaf
        for path, leaf in jtu.tree_flatten_with_path(tree)[0]
        if isinstance(leaf, bool | int | float | str)
    }


def with_arrays(tree: PyTree, arrays: Mapping[str, Any]) -> PyTree:
    """The tree with the arrays of the given paths in place of its own."""
    return jtu.tree_map_with_path(
        lambda path, leaf: arrays.get(_name(path), leaf) if is_array(leaf) else leaf, tree
    )


def describe(arrays: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Shape and dtype of each array, as JSON takes them."""
    return {name: {"shape": list(array.shape), "dtype": str(array.dtype)} for name, array in arrays.items()}


def differences(
    saved: Mapping[str, Any], here: Mapping[str, Any], where: str = "here", source: str = "in the checkpoint"
) -> list[str]:
    """One line for each path or field on which two descriptions differ, with both values."""
    absent = object()
    lines = []
    for name in [*saved, *(name for name in here if name not in saved)]:
        old, new = saved.get(name, absent), here.get(name, absent)
        if old != new and not (old != old and new != new):  # one that is not a number is as it was
            parts = [
                f"{'absent' if value is absent else _show(value)} {place}"
                for value, place in ((old, source), (new, where))
            ]
            lines.append(f"{name}: {', '.join(parts)}")
    return lines


def _show(value: Any) -> str:
    if isinstance(value, dict) and value.keys() == {"shape", "dtype"}:
        return f"{value['dtype']}{value['shape']}"
    return repr(value)


def _name(path: Any) -> str:
    return jtu.keystr(path, simple=True, separator=".")
