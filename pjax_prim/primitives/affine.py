"""Projections onto the graphs of affine maps with constant coefficients."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..errors import ArgumentError
from . import _arguments as arguments
from ._definition import define


def _step(coefficients: Array, largest: Array, squares: Array, residual: Array) -> Array:
    """c r / (1 + |c|^2), with `squares` = |c / largest|^2: no square overflows."""
    step = coefficients / largest * (residual / largest) / (1 / largest**2 + squares)
    return arguments.missing_where(arguments.finite_or_zero(step), largest)


def _affine_reference(a: Array, coefficients: Array, z: Array, offset: Array) -> tuple[Array]:
    dtype = a.dtype
    a, coefficients, z, offset = arguments.widen(a, coefficients, z, offset)
    residual = (z - offset - jnp.sum(coefficients * a, -1))[..., None]
    largest = jnp.maximum(jnp.max(jnp.abs(coefficients), -1, keepdims=True), 1)
    squares = jnp.sum(jnp.square(coefficients / largest), -1, keepdims=True)
    step = _step(coefficients, largest, squares, residual)
    return ((a + arguments.missing_where(step, z[..., None], offset[..., None])).astype(dtype),)


project_affine_p = define("pjax_project_affine", _affine_reference)


def project_affine(
    a: Float[Array, " n"],
    coefficients: Float[Array, " n"],
    z: Float[Array, ""],
    offset: Float[Array, ""] | float = 0.0,
) -> Float[Array, " n"]:
    r"""The input of the nearest point of $\{(a, z) : z = c \cdot a + o\}$ for constants c, o:

    $$\arg\min_{a'} |a' - a|^2 + (c \cdot a' + o - z)^2
      = a + \frac{z - o - c \cdot a}{1 + |c|^2}\, c.$$

    **Arguments:**

    - `a`: a vector of length n, at least 1.
    - `coefficients`: c, of the same length.
    - `z`: the queried output, a scalar.
    - `offset`: o, a scalar.

    It takes one query; use `jax.vmap` for a batch.

    **Returns:** the projected `a`. It is unique. Where the residual overflows the dtype, `a` itself is
    returned.

    **Errors:** `ArgumentError` for shapes or dtypes other than these.

    **Cost:** three reductions, one update.
    """
    a, coefficients, z, offset = arguments.floating(a=a, coefficients=coefficients, z=z, offset=offset)
    arguments.rank(1, a=a, coefficients=coefficients)
    arguments.rank(0, z=z, offset=offset)
    arguments.same_shape(a=a, coefficients=coefficients)
    arguments.not_empty(a=a)
    (moved,) = project_affine_p.bind(a, coefficients, z, offset)
    return moved


def _mean_reference(a: Array, z: Array) -> tuple[Array]:
    dtype = a.dtype
    a, z = arguments.widen(a, z)
    n = a.shape[-1]
    step = (z - jnp.mean(a, -1)) / (n + 1)
    step = arguments.missing_where(arguments.finite_or_zero(step), z)
    return ((a + step[..., None]).astype(dtype),)


project_mean_p = define("pjax_project_mean", _mean_reference)


def project_mean(a: Float[Array, " n"], z: Float[Array, ""]) -> Float[Array, " n"]:
    r"""The input of the nearest point of $\{(a, z) : z = \frac1n \sum_i a_i\}$:

    $$\arg\min_{a'} |a' - a|^2 + (\tfrac1n \textstyle\sum_i a'_i - z)^2.$$

    **Arguments:**

    - `a`: a vector of length n, at least 1.
    - `z`: the queried output, a scalar.

    It takes one query; use `jax.vmap` for a batch.

    **Returns:** every entry moved by $(z - \bar a)/(n + 1)$. It is unique. An input whose sum
    overflows the dtype is returned unchanged.

    **Errors:** `ArgumentError` for shapes or dtypes other than these.

    **Cost:** one sum, one update.
    """
    a, z = arguments.vector_and_number(a, z)
    (moved,) = project_mean_p.bind(a, z)
    return moved


def _scale_reference(a: Array, factor: Array, z: Array, offset: Array) -> tuple[Array]:
    dtype = a.dtype
    a, factor, z, offset = arguments.widen(a, factor, z, offset)
    largest = jnp.maximum(jnp.abs(factor), 1)
    step = _step(factor, largest, jnp.square(factor / largest), z - offset - factor * a)
    return ((a + arguments.missing_where(step, z, offset)).astype(dtype),)


project_scale_p = define("pjax_project_scale", _scale_reference)


def project_scale(
    a: Float[Array, "..."],
    factor: Float[Array, "..."] | float,
    z: Float[Array, "..."],
    offset: Float[Array, "..."] | float = 0.0,
) -> Float[Array, "..."]:
    r"""The input of the nearest point of $\{(a, z) : z = f a + o\}$ for constants f, o,
    elementwise:

    $$\arg\min_{a'} (a' - a)^2 + (f a' + o - z)^2 = a + \frac{f (z - o - f a)}{1 + f^2}.$$

    **Arguments:**

    - `a`, `z`: input and queried output, of one shape.
    - `factor`, `offset`: f and o; arrays of that shape or scalars.

    **Returns:** the projected `a`. It is unique. Where the residual overflows the dtype, `a` itself is
    returned.

    **Errors:** `ArgumentError` for shapes or dtypes other than these.

    **Cost:** one pass over the arrays.
    """
    a, factor, z, offset = arguments.floating(a=a, factor=factor, z=z, offset=offset)
    arguments.same_shape(a=a, z=z)
    factor = factor if factor.ndim else jnp.broadcast_to(factor, a.shape)
    offset = offset if offset.ndim else jnp.broadcast_to(offset, a.shape)
    arguments.same_shape(a=a, factor=factor, offset=offset)
    (moved,) = project_scale_p.bind(a, factor, z, offset)
    return moved


def _combination_reference(*arrays: Array, coefficients: tuple[float, ...]) -> tuple[Array, ...]:
    dtypes = [array.dtype for array in arrays[:-1]]
    *inputs, z = arguments.widen(*arrays)
    residual = z
    for x, c in zip(inputs, coefficients, strict=True):
        residual = residual - c * x
    largest = max(1.0, *(abs(c) for c in coefficients))
    squares = math.fsum((c / largest) ** 2 for c in coefficients)
    step = arguments.finite_or_zero(residual / largest) / (1 / largest**2 + squares)
    step = arguments.missing_where(step, z)
    return tuple(
        (x + c / largest * step).astype(dtype)
        for x, c, dtype in zip(inputs, coefficients, dtypes, strict=True)
    )


project_combination_p = define("pjax_project_combination", _combination_reference)


def project_combination(
    inputs: tuple[Float[Array, "..."], ...],
    z: Float[Array, "..."],
    coefficients: Sequence[float] | None = None,
) -> tuple[Float[Array, "..."], ...]:
    r"""The inputs of the nearest point of $\{(x_1, \dots, x_k, z) : z = \sum_i c_i x_i\}$,
    elementwise:

    $$\arg\min_{x'} \textstyle\sum_i (x'_i - x_i)^2 + (\sum_i c_i x'_i - z)^2.$$

    **Arguments:**

    - `inputs`: k arrays of one shape, at least 1.
    - `z`: the queried output, of that shape.
    - `coefficients`: k finite Python numbers, static; `(1., -1.)` is subtraction. All 1 if None.

    **Returns:** the projected inputs. They are unique. Where the residual overflows the dtype, the
    inputs themselves are returned.

    **Errors:** `ArgumentError` for shapes, dtypes or coefficients other than these.

    **Cost:** one pass over the k + 1 arrays.
    """
    named = arguments.numbered("inputs", inputs)
    static = (1.0,) * len(named) if coefficients is None else tuple(float(c) for c in coefficients)
    if len(static) != len(named) or not all(map(math.isfinite, static)):
        raise ArgumentError(
            f"coefficients: expected {len(named)} finite numbers, one for each input, given {static}"
        )
    *arrays, z = arguments.floating(**named, z=z)
    arguments.same_shape(**dict(zip(named, arrays, strict=True)), z=z)
    return project_combination_p.bind(*arrays, z, coefficients=static)
