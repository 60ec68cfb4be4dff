"""Checks of the arguments that public projection functions take, before anything is compiled."""

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from .._compat import is_traced
from ..errors import ArgumentError


def floating(**named: Any) -> tuple[Array, ...]:
    """The arguments as arrays of one common inexact dtype.

    Python numbers take the dtype of the arrays beside them. An integer, Boolean or complex
    array is an error rather than a silent cast.
    """
    for name, value in named.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            continue
        if not hasattr(value, "dtype") and not isinstance(value, bool | complex):
            raise ArgumentError(f"{name}: expected an array, given {type(value).__name__}")
        dtype = jnp.result_type(value)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ArgumentError(
                f"{name}: expected a floating-point array (bfloat16, float16, float32 or float64), "
                f"given dtype {dtype}"
            )
    dtype = jnp.result_type(*named.values())
    if not jnp.issubdtype(dtype, jnp.floating):  # only Python integers were given
        dtype = jnp.result_type(float)
    return tuple(jnp.asarray(value, dtype) for value in named.values())


def numbered(name: str, arrays: Sequence[Any]) -> dict[str, Any]:
    """A sequence of array arguments as `{"name[0]": ..., "name[1]": ...}`; it is not empty."""
    if not isinstance(arrays, tuple | list) or not arrays:
        given = "none" if isinstance(arrays, tuple | list) else type(arrays).__name__
        raise ArgumentError(f"{name}: expected a tuple of at least one array, given {given}")
    return {f"{name}[{i}]": array for i, array in enumerate(arrays)}


def broadcast_shape(name: str, arrays: Sequence[Array]) -> tuple[int, ...]:
    """The shape that the arrays have when broadcast together."""
    try:
        return np.broadcast_shapes(*(array.shape for array in arrays))
    except ValueError as error:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ArgumentError(f"{name}: expected shapes that broadcast, given {shapes}") from error


def rank(expected: int, **named: Array) -> None:
    """Each array has `expected` axes."""
    for name, array in named.items():
        if array.ndim != expected:
            kind = {0: "a scalar", 1: "a vector"}.get(expected, f"an array of {expected} axes")
            raise ArgumentError(
                f"{name}: expected {kind}, given shape {array.shape}; "
                "one query at a time, use jax.vmap for a batch"
            )


def vector_and_number(a: Any, z: Any) -> tuple[Array, Array]:
    """One query of a function of a vector: the vector, of at least one entry, and the queried output."""
    vector, number = floating(a=a, z=z)
    rank(1, a=vector)
    rank(0, z=number)
    not_empty(a=vector)
    return vector, number


def min_rank(least: int, **named: Array) -> None:
    """Each array has at least `least` axes."""
    for name, array in named.items():
        if array.ndim < least:
            raise ArgumentError(f"{name}: expected at least {least} axis, given shape {array.shape}")


def same_shape(**named: Array) -> None:
    """All arrays have one shape."""
    if len({array.shape for array in named.values()}) > 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in named.items())
        raise ArgumentError(f"{' and '.join(named)}: expected equal shapes, given {shapes}")


def not_empty(**named: Array) -> None:
    """No array has zero elements."""
    for name, array in named.items():
        if array.size == 0:
            raise ArgumentError(f"{name}: expected at least one element, given shape {array.shape}")


def positive(**named: float) -> None:
    """Each static parameter is a finite number above zero."""
    for name, value in named.items():
        number = isinstance(value, Real) and not isinstance(value, bool)
        if not number or not 0 < value < float("inf"):
            raise ArgumentError(f"{name}: expected a finite number above zero, given {value!r}")


def one_of(allowed: Mapping[str, Any] | tuple[Any, ...], **named: Any) -> None:
    """Each argument is one of the allowed values."""
    for name, value in named.items():
        if value not in allowed:
            choices = ", ".join(repr(choice) for choice in allowed)
            raise ArgumentError(f"{name}: expected one of {choices}, given {value!r}")


def compute_dtype(dtype: Any) -> Any:
    """The dtype a projection computes in: half precisions are widened to float32.

    Also under JAX's strict promotion, where users call losses.
    """
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(dtype, jnp.float32)


def widen(*arrays: Array) -> tuple[Array, ...]:
    """The arrays in the dtype a projection of them computes in."""
    wide = compute_dtype(jnp.result_type(*arrays))
    return tuple(array.astype(wide) for array in arrays)


def moved_type(a: Array, z: Array, **static: Any) -> tuple[Array]:
    """What has the type of a projected `a`, for abstract evaluation (`_definition.define`)."""
    return ((a + z).astype(a.dtype),)


def on_first(step: Array, like: Array, axes: int = 1) -> Array:
    """`step` on the first component along the last `axes` axes of `like`, zero on the others.

    A scatter it is not: XLA divides an addition to some elements of a sum wrongly over devices (seen with jax
    0.10.2: it adds up the terms once for each device that holds them).
    """
    shape = like.shape[like.ndim - axes :]
    place = lax.broadcasted_iota(jnp.int32, (1,) * (like.ndim - axes) + (math.prod(shape),), like.ndim - axes)
    first = (place == 0).reshape((1,) * (like.ndim - axes) + shape)
    return jnp.where(first, step.reshape(*step.shape, *(1,) * axes), 0)


def finite_or_zero(step: Array) -> Array:
    """The step of a projection, or none where it overflowed."""
    return jnp.where(jnp.isfinite(step), step, 0)


@contextlib.contextmanager
def standard_promotion() -> Iterator[None]:
    """JAX's ordinary promotion of ranks and dtypes, in which the library's own programs are written.

    The strict settings (`jax_numpy_rank_promotion`, `jax_numpy_dtype_promotion`) are for what a user
    writes, which is traced outside.
    """
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def missing_where(result: Array, *given: Array) -> Array:
    """The result, and NaN where one of the given numbers is: a query that is not known has no nearest point.

    Steps that overflowed count as none (`finite_or_zero`), and comparisons with NaN choose nothing: so it has
    to be said.
    """
    unknown = functools.reduce(jnp.logical_or, (x != x for x in given))
    return jnp.where(unknown, jnp.nan, result)


def is_concrete(value: Any) -> bool:
    """Whether the values of an array can be looked at: not traced, all on this process."""
    if is_traced(value):
        return False
    return not isinstance(value, jax.Array) or value.is_fully_addressable
