"""By how much a change of a convolution moves its operands: the dot projections of `convolution`, summed."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from . import _arguments as arguments
from ._definition import define
from ._window import Window
from .convolution import over_leading_axes, project_convolution_p
from .displace_linear import Weights, absolute, summed_displacements


def mean_norms(lhs: Array, rhs: Array, window: Window) -> tuple[Array, Array]:
    """The mean squared lengths of patches, as if all were inside the array, and of filters."""
    wide = arguments.compute_dtype(jnp.result_type(lhs, rhs))
    patches = jnp.sum(jnp.square(lhs.astype(wide))) * (window.size * rhs.shape[1] / max(lhs.size, 1))
    return patches, jnp.sum(jnp.square(rhs.astype(wide))) / max(rhs.shape[0], 1)


def _exact(
    lhs: Array,
    rhs: Array,
    change: Array,
    *,
    window: Window,
    wanted: tuple[bool, bool],
    weights: Weights,
    **static: Any,
) -> tuple[Array, ...]:
    batch, channels, *positions = change.shape
    copies = (
        np.asarray(window.counts(lhs.shape[2:])) * (channels // window.groups),
        batch * math.prod(positions),
    )
    project = partial(project_convolution_p.bind, window=window, **static)
    norms = mean_norms(lhs, rhs, window)
    return summed_displacements(project, (lhs, rhs), change, norms, copies, wanted, weights)


def _small(
    lhs: Array,
    rhs: Array,
    change: Array,
    *,
    window: Window,
    wanted: tuple[bool, bool],
    weights: Weights,
    precision: Any,
    operand_dtype: Any,
) -> tuple[Array, ...]:
    wide = arguments.compute_dtype(jnp.result_type(lhs, rhs, change))
    u, v = (
        jnp.asarray(absolute(norm, weight), wide)
        for norm, weight in zip(mean_norms(lhs, rhs, window)[::-1], weights, strict=True)
    )
    batch, channels, *positions = change.shape
    groups = window.groups
    grouped = (batch, groups, channels // groups, *positions)
    patches = window.sums(jnp.sum(jnp.square(window.grouped(lhs.astype(wide))), 2))[:, :, None]
    filters = jnp.sum(jnp.square(rhs.astype(wide)), tuple(range(1, rhs.ndim)))
    filters = filters.reshape(1, groups, channels // groups, *[1] * window.dims)
    t = (change.astype(wide).reshape(grouped) / (1 + patches / v + filters / u)).reshape(change.shape)
    # Displacements may be too small for float16.
    narrow = wide if operand_dtype == jnp.float16 else operand_dtype
    x, w = lhs.astype(narrow), rhs.astype(narrow)

    def transposed(function: Callable[[Array], Array], like: Array) -> Array:
        (moved,) = jax.linear_transpose(function, jax.ShapeDtypeStruct(like.shape, narrow))(t.astype(narrow))
        return jnp.asarray(moved, wide)

    # Outside of the branch: XLA's CPU backend takes convolutions in branches many times as long.
    moves = (
        lambda: transposed(lambda x: window.convolve(x, w, precision), lhs),
        lambda: transposed(lambda w: window.convolve(x, w, precision), rhs),
    )
    first_order = tuple(move() for move, want in zip(moves, wanted, strict=True) if want)

    def exact() -> tuple[Array, ...]:
        static = {"precision": precision, "operand_dtype": operand_dtype}
        found = _exact(lhs, rhs, change, window=window, wanted=wanted, weights=weights, **static)
        return tuple(x.astype(wide) for x in found)

    largest = jnp.max(jnp.abs(t), initial=0) / jnp.sqrt(u * v)
    return tuple(lax.cond(largest <= math.sqrt(jnp.finfo(wide).eps), lambda: first_order, exact))


def displace_reference(
    lhs: Array, rhs: Array, change: Array, *, window: Window, **static: Any
) -> tuple[Array, ...]:
    return over_leading_axes(partial(_exact, window=window, **static), window)(lhs, rhs, change)


def displace_small(
    lhs: Array, rhs: Array, change: Array, *, window: Window, **static: Any
) -> tuple[Array, ...]:
    """The same, to first order where no change is large: see `displace_linear.displace_small`."""
    return over_leading_axes(partial(_small, window=window, **static), window)(lhs, rhs, change)


displace_convolution_p = define("pjax_displace_convolution", displace_reference)
r"""(..., N, C, *S), (..., O, C / feature groups, *K), (..., N / batch groups, O, *P) -> displacements.

For each output element the dot projection of its patch of `lhs` and its filter whose output is to change:
see `displace_linear_p`, whose `weights` these are (patches for rows of a, filters for those of b).

Results, of the operands wanted, in their shapes: the sum of the displacements of each element's copies, times
its weight."""
