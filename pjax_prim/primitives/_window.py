"""How the window of a convolution slides, and the linear maps that only depend on that.

Arrays are channels-first: the left operand x is (N, C, *S), the right one w (O, C / feature groups,
*K), the output (N / batch groups, O, *P). With G the number of groups of either kind the same numbers
per group are (N / batch groups, G, C / feature groups, *S), (G, O / G, C / feature groups, *K) and
(N / batch groups, G, O / G, *P).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array


@dataclass(frozen=True)
class Window:
    """The static parameters of a convolution, in the words of `jax.lax.conv_general_dilated`.

    `kernel` are the window's spatial sizes; `padding` (low, high) for each axis, also negative.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    feature_groups: int = 1
    batch_groups: int = 1

    @property
    def dims(self) -> int:
        """The number of spatial axes."""
        return len(self.kernel)

    @property
    def size(self) -> int:
        """The number of positions in the window."""
        return math.prod(self.kernel)

    @property
    def groups(self) -> int:
        """Feature groups or batch groups; one of the two is 1."""
        return self.feature_groups * self.batch_groups

    def convolve(self, x: Array, w: Array, precision: Any, dtype: Any = None) -> Array:
        """The convolution, with results of `dtype`.

        Groups of the batch are taken for groups of features: XLA cannot divide a convolution with the former
        over devices (seen with jax 0.10.2: its process ends).
        """
        x = self.grouped(x)
        return lax.conv_general_dilated(
            x.reshape(x.shape[0], -1, *x.shape[3:]),
            w,
            self.strides,
            self.padding,
            self.lhs_dilation,
            self.rhs_dilation,
            None,
            self.groups,
            precision=precision,
            preferred_element_type=dtype,
        )

    def correlate(self, x: Array, y: Array, precision: Any, dtype: Any = None) -> Array:
        """The transposition of `convolve` as a linear map of w: the sum over outputs of y times its window.

        With groups it is a product for each position in the window. XLA divides the convolution that it is
        elsewhere (`correlate_at_once`) wrongly over devices (seen with jax 0.10.2 and 0.11.2: it adds up the
        parts of a batch once for each device that holds them).
        """
        if self.groups == 1:
            return self.correlate_at_once(x, y, precision, dtype)
        wide = jnp.promote_types(x.dtype, y.dtype)
        x = self._pad(self.grouped(x.astype(wide)))  # (N, G, C, *S)
        y = y.astype(wide).reshape(y.shape[0], self.groups, -1, *y.shape[2:])  # (N, G, Q, *P)
        over = (0, *range(3, x.ndim))

        def at(position: tuple[int, ...]) -> Array:
            seen = x
            for axis, k in enumerate(position):
                seen = self._shift(seen, axis, k, 3 + axis)
            return lax.dot_general(y, seen, ((over, over), ((1,), (1,))), precision, dtype)  # (G, Q, C)

        found = jnp.stack([at(position) for position in np.ndindex(self.kernel)], -1)
        return found.reshape(-1, x.shape[2], *self.kernel)

    def correlate_at_once(self, x: Array, y: Array, precision: Any, dtype: Any = None) -> Array:
        """`correlate` as one convolution, for where one device holds its operands."""
        shape = (y.shape[1], self.grouped(x).shape[2], *self.kernel)
        filters = jax.ShapeDtypeStruct(shape, x.dtype)
        (found,) = jax.linear_transpose(lambda w: self.convolve(x, w, precision, y.dtype), filters)(y)
        return found if dtype is None else found.astype(dtype)

    def grouped(self, x: Array) -> Array:
        """The left operand per group."""
        if self.batch_groups > 1:
            return jnp.moveaxis(x.reshape(self.batch_groups, -1, *x.shape[1:]), 0, 1)
        return x.reshape(x.shape[0], self.feature_groups, -1, *x.shape[2:])

    def ungrouped(self, x: Array) -> Array:
        """The inverse of `grouped`."""
        if self.batch_groups > 1:
            x = jnp.moveaxis(x, 1, 0)
            return x.reshape(-1, *x.shape[2:])
        return x.reshape(x.shape[0], -1, *x.shape[3:])

    def sums(self, x: Array) -> Array:
        """(..., *S) to (..., *P), the sum over each window. Constants outside x are zeros."""
        outer = (1,) * (x.ndim - self.dims)
        return lax.reduce_window(
            self._pad(x),
            np.zeros((), x.dtype),
            lax.add,
            (*outer, *self.kernel),
            (*outer, *self.strides),
            "VALID",
            None,
            (*outer, *self.rhs_dilation),
        )

    def first(self, x: Array) -> Array:
        """(..., *S) to (..., *P), the first element of each window."""
        x = self._pad(x)
        for axis in range(self.dims):
            x = self._shift(x, axis, 0, x.ndim - self.dims + axis)
        return x

    def patches(self, x: Array) -> Array:
        """(..., *S) to (..., *P, size of the window), the elements of each window."""
        x = self._pad(x)
        outer = x.ndim - self.dims
        for axis, length in enumerate(self.kernel):
            x = jnp.stack([self._shift(x, axis, k, outer + axis) for k in range(length)], -1)
        return x.reshape(*x.shape[: outer + self.dims], self.size)

    def counts(self, sizes: Sequence[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """In how many windows each position is, for spatial `sizes` *S; of shape *S."""
        lines = [self._counts(axis, size) for axis, size in enumerate(sizes)]
        return reduce(np.multiply.outer, lines, np.array(1))

    def _pad(self, x: Array) -> Array:
        """`x` with the zeros between and around its elements that the window sees."""
        spatial = (
            (low, high, step - 1) for (low, high), step in zip(self.padding, self.lhs_dilation, strict=True)
        )
        outer = ((0, 0, 0),) * (x.ndim - self.dims)
        return lax.pad(x, np.zeros((), x.dtype), (*outer, *spatial))

    def _shift(self, x: Array, axis: int, k: int, position: int) -> Array:
        """The element k of each window along one spatial axis of a padded array."""
        low = k * self.rhs_dilation[axis]
        last = low + (self._windows(axis, x.shape[position]) - 1) * self.strides[axis]
        return lax.slice_in_dim(x, low, last + 1, self.strides[axis], position)

    def _windows(self, axis: int, padded: int) -> int:
        """The number of windows along an axis of this length."""
        span = (self.kernel[axis] - 1) * self.rhs_dilation[axis] + 1
        return max((padded - span) // self.strides[axis] + 1, 0)

    def _counts(self, axis: int, size: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        (low, high), hole = self.padding[axis], self.lhs_dilation[axis]
        padded = max(low + high + (size - 1) * hole + 1, 0) if size else low + high
        windows = np.arange(self._windows(axis, padded)) * self.strides[axis]
        reached = windows[:, None] + np.arange(self.kernel[axis]) * self.rhs_dilation[axis] - low
        elements = reached[(reached % hole == 0) & (reached >= 0) & (reached < size * hole)] // hole
        return np.bincount(elements.ravel(), minlength=size).astype(np.int64)
