"""The numbers that a solver is given: checked where their values are known, operands where it runs."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array

from ._compat import as_weak
from .errors import ArgumentError
from .primitives._arguments import is_concrete

Setting = float | Array
"""A number, or an array of numbers: with axes only where `jax.vmap` over the solver takes them away."""

Tree = TypeVar("Tree")


class Weights(eqx.Module):
    """Settings that multiply something: a Python 1 is no operand, the product is left out of the program."""


def is_unit(value: Any) -> bool:
    """Whether a weight is left out of the program."""
    return isinstance(value, int | float) and value == 1


def check_setting(name: str, value: Any, allowed: str, is_allowed: Callable[[Any], Any]) -> None:
    """A setting is a real number, or an array of them, that is allowed.

    Python's, NumPy's and JAX's numbers are alike. A traced value cannot be looked at.

    **Arguments:** `allowed`, in words; `is_allowed(value)`, elementwise.
    """
    if not _is_number(value) or (is_concrete(value) and not np.all(is_allowed(np.asarray(value)))):
        raise ArgumentError(f"{name}: expected {allowed}, given {value!r}")


def check_range(name: str, value: Any, high: float) -> None:
    """A solver's parameter is a number in (0, high]."""
    check_setting(name, value, f"a number above 0 and at most {high:g}", lambda x: (x > 0) & (x <= high))


def check_positive(**named: Any) -> None:
    """Each setting is a finite number above zero."""
    for name, value in named.items():
        check_setting(name, value, "a finite number above zero", lambda x: (x > 0) & (x < math.inf))


def check_share(**named: Any) -> None:
    """Each setting is a number of at least 0 and below 1."""
    for name, value in named.items():
        check_setting(name, value, "a number of at least 0 and below 1", lambda x: (x >= 0) & (x < 1))


def check_count(name: str, value: Any, least: int) -> None:
    """A number of things: an integer scalar, at least so many. A traced one is not looked at."""
    dtype = getattr(value, "dtype", None)
    integral = isinstance(value, int) if dtype is None else jnp.issubdtype(dtype, jnp.integer)
    scalar = not isinstance(value, bool) and np.ndim(value) == 0
    if not (integral and scalar) or (is_concrete(value) and int(value) < least):
        raise ArgumentError(f"{name}: expected an integer of at least {least}, given {value!r}")


def check_scalar(name: str, value: Any) -> None:
    """A setting is one number where a program runs."""
    if np.ndim(value):
        raise ArgumentError(
            f"{name}: expected a number, given an array of shape {np.shape(value)}; jax.vmap or "
            "eqx.filter_vmap over it takes one number of it at a time"
        )


def operands(tree: Tree) -> Tree:
    """The same tree with its numbers as operands of a compiled program: another value compiles nothing.

    They have a weak type, as Python's numbers do: what they are combined with keeps its dtype, whether
    they came from Python, NumPy or JAX.
    """

    def operand(path: Any, leaf: Any) -> Any:
        if isinstance(leaf, Weights):
            return jax.tree.map(lambda x: x if is_unit(x) else operand(path, x), leaf)
        if not _is_number(leaf):
            return leaf
        check_scalar(f"solver{jtu.keystr(path)}", leaf)
        if isinstance(leaf, jax.Array):
            return as_weak(leaf)
        value = float(leaf) if np.issubdtype(np.asarray(leaf).dtype, np.floating) else int(leaf)
        return jax.device_put(value)  # a transfer guard refuses the implicit `jnp.asarray`

    return jtu.tree_map_with_path(operand, tree, is_leaf=lambda x: isinstance(x, Weights))


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, int | float):
        return True
    real = (jnp.floating, jnp.integer)
    return eqx.is_array_like(value) and any(jnp.issubdtype(jnp.result_type(value), kind) for kind in real)
