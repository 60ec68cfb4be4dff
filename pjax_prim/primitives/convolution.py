"""The dot projections of a whole convolution, from consensus and back to it, without copies."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from . import _arguments as arguments
from . import linear
from ._definition import define
from ._window import Window


def reference(*operands: Array, window: Window, **static: Any) -> tuple[Array, ...]:
    return over_leading_axes(partial(_project, window=window, **static), window)(*operands)


def _convolve_reference(
    lhs: Array, rhs: Array, *, window: Window, precision: Any, output_dtype: Any
) -> tuple[Array, ...]:
    def convolve(x: Array, w: Array) -> tuple[Array]:
        return (window.convolve(x, w, precision, output_dtype),)

    return over_leading_axes(convolve, window)(lhs, rhs)


def _correlate_reference(
    lhs: Array,
    output: Array,
    *,
    window: Window,
    precision: Any,
    dtype: Any,
    correlate: Callable[..., Array] = Window.correlate,
) -> tuple[Array, ...]:
    def run(x: Array, y: Array) -> tuple[Array]:
        return (correlate(window, x, y, precision, dtype),)

    return over_leading_axes(run, window)(lhs, output)


correlate_p = define("pjax_correlate", _correlate_reference, differentiable=True)
"""(..., N, C, *S), (..., N / batch groups, O, *P) -> (..., O, C / feature groups, *K): the sum over outputs
of each times its window, the derivative of a convolution by its filters (`Window.correlate`)."""


def _spread_reference(
    output: Array, rhs: Array, *, window: Window, precision: Any, dtype: Any, shape: tuple[int, ...]
) -> tuple[Array, ...]:
    def run(y: Array, w: Array) -> tuple[Array]:
        image = jax.ShapeDtypeStruct(shape, dtype)
        (found,) = jax.linear_transpose(lambda x: window.convolve(x, w, precision, y.dtype), image)(y)
        return (found,)

    return over_leading_axes(run, window)(output, rhs)


spread_p = define("pjax_spread", _spread_reference, differentiable=True)
"""(..., N / batch groups, O, *P), (..., O, C / feature groups, *K) -> (..., *shape): the sum over the outputs
that each element of an image reaches, times its weight there; the derivative of a convolution by its image,
which has this `shape`, (N, C, *S), and `dtype`."""


def _of_image(
    cotangent: Array, rhs: Array, image: Any, *, window: Window, precision: Any, output_dtype: Any
) -> Array:
    shape = image.shape[image.ndim - window.dims - 2 :]
    (found,) = spread_p.bind(
        cotangent, rhs, window=window, precision=precision, dtype=image.dtype, shape=shape
    )
    return _over_shared(found, image)


def _of_filters(
    cotangent: Array, lhs: Array, filters: Any, *, window: Window, precision: Any, output_dtype: Any
) -> Array:
    (found,) = correlate_p.bind(lhs, cotangent, window=window, precision=precision, dtype=filters.dtype)
    return _over_shared(found, filters)


def _over_shared(found: Array, operand: Any) -> Array:
    """Summed over the leading axes that all had this operand in common."""
    shared = [i for i, (n, size) in enumerate(zip(found.shape, operand.shape, strict=True)) if n != size]
    return jnp.sum(found, shared, keepdims=True) if shared else found


convolve_p = define(
    "pjax_convolve", _convolve_reference, differentiable=True, transposes=(_of_image, _of_filters)
)
"""(..., N, C, *S), (..., O, C / feature groups, *K) -> (..., N / batch groups, O, *P): the convolution. A
primitive because its layout decides on its speed on CPU (see `pjax_prim.lowering`)."""


def over_leading_axes(
    function: Callable[..., tuple[Array, ...]], window: Window
) -> Callable[..., tuple[Array, ...]]:
    """`function` of arrays as a convolution has them, over all axes before those."""

    def apply(*arrays: Array) -> tuple[Array, ...]:
        run = function
        for _ in range(arrays[0].ndim - window.dims - 2):
            run = _over_leading_axis(run)
        return run(*arrays)

    return apply


def _over_leading_axis(function: Callable[..., tuple[Array, ...]]) -> Callable[..., tuple[Array, ...]]:
    """`function` over one more batch axis, on which an array has the common size or 1."""

    def apply(*arrays: Array) -> tuple[Array, ...]:
        if all(x.shape[0] == 1 for x in arrays):
            return tuple(x[None] for x in function(*(x[0] for x in arrays)))
        axes = tuple(None if x.shape[0] == 1 else 0 for x in arrays)
        rows = (x[0] if axis is None else x for x, axis in zip(arrays, axes, strict=True))
        return jax.vmap(function, axes)(*rows)

    return apply


def _project(
    lhs: Array,
    rhs: Array,
    target: Array,
    *weights: Array,
    window: Window,
    wanted: tuple[bool, bool],
    precision: Any,
    operand_dtype: Any,
    answer: Callable[[linear.Query], linear.Answer] = linear.answer,
    correlate: Callable[..., Array] = Window.correlate,
) -> tuple[Array, ...]:
    wide = arguments.compute_dtype(jnp.result_type(lhs, rhs, target))
    narrow_x, narrow_w = lhs.astype(operand_dtype), rhs.astype(operand_dtype)
    product = window.convolve(narrow_x, narrow_w, precision, wide)
    batch, channels, *positions = product.shape
    groups, queries = window.groups, channels // window.groups
    x = window.grouped(narrow_x.astype(wide))
    w = narrow_w.astype(wide).reshape(groups, queries, *rhs.shape[1:])
    corner = (slice(None), slice(None), 0, *[0] * window.dims)

    def of_patches(array: Array) -> Array:
        """(N, G, *P) as rows of a query."""
        return array.reshape(batch, groups, 1, -1)

    # In a query of filters and patches, the filters come first.
    found, ratio = linear.answer_weighted(
        linear.Query(
            product.reshape(batch, groups, queries, -1),
            jnp.sum(jnp.square(w), tuple(range(2, w.ndim)))[..., None],
            of_patches(window.sums(jnp.sum(jnp.square(x), 2))),
            w[corner][..., None],
            of_patches(window.first(x[:, :, 0])),
            target.astype(wide).reshape(batch, groups, queries, -1),
        ),
        [x.astype(wide)[None, None] for x in weights[::-1]],
        answer,
    )

    # Displacements may be too small for float16.
    back = wide if operand_dtype == jnp.float16 else operand_dtype
    cross = found.e.astype(back).reshape(product.shape)
    results = [found.output.reshape(product.shape)]
    if wanted[0]:
        (across,) = jax.linear_transpose(
            lambda v: window.convolve(v, narrow_w.astype(back), precision), _abstract(lhs, back)
        )(cross)
        within, ahead = (
            jax.linear_transpose(linear_map, _abstract(x[:, :, 0], wide))(
                rows.reshape(batch, groups, *positions)
            )[0][:, :, None]
            for linear_map, rows in (
                (window.sums, queries * found.c_b),
                (window.first, queries * found.step_b),
            )
        )
        first = (np.arange(x.shape[2]) == 0).reshape(-1, *[1] * window.dims)
        across = window.grouped(across.astype(wide)) / ratio
        total = x * within + across + jnp.where(first, ahead, 0)
        copies = queries * np.maximum(window.counts(x.shape[3:]), 1)
        results.append(window.ungrouped(total / copies.astype(wide)))
    if wanted[1]:
        across = correlate(window, narrow_x.astype(back), cross, precision)
        along = w * jnp.mean(found.c_a, 0).reshape(groups, queries, *[1] * (w.ndim - 2))
        copies = batch * math.prod(positions)
        mean = along + across.astype(wide).reshape(w.shape) * (ratio / copies)
        step = arguments.on_first(jnp.mean(found.step_a, 0), mean, w.ndim - 2)
        results.append((mean + step).reshape(rhs.shape))
    return (*results, jnp.sum(found.moved))


def _abstract(array: Array, dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, dtype)


project_convolution_p = define(
    "pjax_project_convolution", reference, types=partial(reference, answer=linear.unsolved)
)
r"""(..., N, C, *S), (..., O, C / feature groups, *K), (..., N / batch groups, O, *P) -> output,
displacements, squared displacement.

For each output element the dot projection of its patch of `lhs` and its filter with the queried
output z from `target`; then the mean of each element's displacements over its copies (`linear`
says the same of rows). The displacement of the copies is $\Delta x = c\,x + e\,w$,
$\Delta w = c\,w + e\,x$ with $c$, $e$ of the output's shape, so the sum over the copies of an
element of `lhs` is x times the sum of c over the windows that contain it, plus the transposed
convolution of e; for `rhs` likewise, by the other transposition: three convolutions, no copies.

- `window`: see `Window`. Zeros of the padding and holes of dilation are constants with copies; an
  element that no window contains has none and displacement zero.
- `wanted`, `precision`, `operand_dtype` and two more operands: as in `project_linear_p`.

Results: the new output; the displacements wanted, in the shapes of `lhs` and `rhs`; the squared
displacement summed over all copies of both, (...)."""
