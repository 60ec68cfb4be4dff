"""Exact conditions on weights, applied where all copies of a parameter agree."""

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .errors import ArgumentError
from .primitives._arguments import widen


class AbstractRestriction(abc.ABC):
    """A set of parameters with its projection.

    Copies of a parameter whose distances are weighted alike along an axis have their nearest common value
    within a set at the projection of their mean; so one projection of the consensus is exact.
    """

    @abc.abstractmethod
    def project(self, w: Float[Array, "..."]) -> Float[Array, "..."]:
        """The nearest point of the set in squared distance, of the shape and the dtype of `w`."""

    def expected(self, shape: tuple[int, ...]) -> str | None:
        """In words, what a parameter has to be for this set, where one of `shape` is none; else None."""
        return None


@dataclass(frozen=True)
class FixedNorm(AbstractRestriction):
    """Every vector along the last axis (the weights of a neuron) has a given length.

    The nearest such vector is the same direction scaled; for the vector zero, where all are equally near,
    the one with equal entries.

    **Arguments:** `length`, above zero; by default the square root of the number of entries.
    """

    length: float | None = None

    def __post_init__(self) -> None:
        if self.length is not None and not 0 < self.length < math.inf:
            raise ArgumentError(f"length: expected a finite number above zero, given {self.length!r}")

    def project(self, w: Float[Array, "..."]) -> Float[Array, "..."]:
        entries = w.shape[-1]
        if not entries:
            return w
        length = math.sqrt(entries) if self.length is None else self.length
        largest = jnp.max(jnp.abs(w), -1, keepdims=True)
        # NaN is not equal to zero: a vector with one has no length, and stays without.
        scaled = jnp.where(largest == 0, 1, w / jnp.where(largest == 0, 1, largest))
        return scaled * (length / jnp.sqrt(jnp.sum(jnp.square(scaled), -1, keepdims=True)))

    def expected(self, shape: tuple[int, ...]) -> str | None:
        return None if shape else "at least one axis"


@dataclass(frozen=True)
class UnitRows(FixedNorm):
    """Every vector along the last axis has length 1, as `FixedNorm(1.0)` says."""

    length: float | None = 1.0


@dataclass(frozen=True)
class Bounds(AbstractRestriction):
    """Every entry is between `low` and `high`; the nearest point clips."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ArgumentError(f"low and high: expected low <= high, given {self.low!r} and {self.high!r}")

    def project(self, w: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.clip(w, self.low, self.high)


@dataclass(frozen=True)
class Sign(AbstractRestriction):
    """No entry is negative, or with `positive=False` none is positive."""

    positive: bool = True

    def project(self, w: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.maximum(w, 0) if self.positive else jnp.minimum(w, 0)


@dataclass(frozen=True)
class NonNegative(Sign):
    """No entry is negative, as `Sign()` says."""


@dataclass(frozen=True)
class Sparse(AbstractRestriction):
    """At most `count` entries along the last axis are not zero: the largest ones stay, the first of ties.

    **Arguments:** `count`, at least 1; all entries where there are fewer.
    """

    count: int

    def __post_init__(self) -> None:
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 1:
            raise ArgumentError(f"count: expected an integer of at least 1, given {self.count!r}")

    def project(self, w: Float[Array, "..."]) -> Float[Array, "..."]:
        order = jnp.argsort(-jnp.abs(w), -1, stable=True)
        return jnp.where((jnp.argsort(order, -1) < self.count) | jnp.isnan(w), w, 0)

    def expected(self, shape: tuple[int, ...]) -> str | None:
        return None if shape else "at least one axis"


@dataclass(frozen=True)
class Levels(AbstractRestriction):
    """Every entry is one of some values: the nearest, the lower of two equally near.

    **Arguments:** `values`, increasing; at least one.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        values = self.values
        if not values or any(not a < b for a, b in zip(values, values[1:], strict=False)):
            raise ArgumentError(f"values: expected increasing numbers, at least one, given {values!r}")

    def project(self, w: Float[Array, "..."]) -> Float[Array, "..."]:
        values = jnp.asarray(self.values, w.dtype)
        nearest = values[jnp.searchsorted((values[1:] + values[:-1]) / 2, w)]
        return jnp.where(jnp.isnan(w), w, nearest)


@dataclass(frozen=True)
class SpectralNorm(AbstractRestriction):
    r"""No singular value of a matrix is above `cap`: $\arg\min |w' - w|^2$ among those clips singular values.

    The last two axes are those of a matrix, others are a stack of matrices. A matrix within the cap stays as
    it is, to the last bit.

    **Arguments:**

    - `cap`, above zero.
    - `spatial`: of the kernel of a convolution, (..., out, in, *window), how many axes the window has. The
      matrix is then (out, in times window). A convolution with such a kernel has at most the norm `cap`
      times the root of the number of patches that an input belongs to (`pjp.lipschitz_bound`).

    **Cost:** the eigenvalues of the smaller of w w' and w' w; a singular value decomposition where some
    singular value is above four times the cap, for which those are not exact enough.
    """

    cap: float
    spatial: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.cap < math.inf:
            raise ArgumentError(f"cap: expected a finite number above zero, given {self.cap!r}")
        if isinstance(self.spatial, bool) or not isinstance(self.spatial, int) or self.spatial < 0:
            raise ArgumentError(f"spatial: expected an integer of at least 0, given {self.spatial!r}")

    def project(self, w: Float[Array, "..."]) -> Float[Array, "..."]:
        kept = w.ndim - self.spatial
        (matrix,) = widen(w.reshape(*w.shape[: kept - 1], math.prod(w.shape[kept - 1 :])))
        found = _with_singular_values(matrix, lambda s: jnp.minimum(s, 1), self.cap)
        return found.reshape(w.shape).astype(w.dtype)

    def expected(self, shape: tuple[int, ...]) -> str | None:
        least = 2 + self.spatial
        return None if len(shape) >= least else f"at least {least} axes (spatial={self.spatial})"


@dataclass(frozen=True)
class OrthogonalColumns(AbstractRestriction):
    r"""The columns of a matrix are orthogonal and of length 1, $w'^T w' = 1$: a point of a Stiefel manifold.

    The nearest one is the polar factor $w (w^T w)^{-1/2}$: all singular values become 1. It is unique for a
    matrix of full rank, and one of the nearest for others. The last two axes are those of a matrix with at
    least as many rows as columns; others are a stack of matrices.

    **Cost:** as of `SpectralNorm`, whose quick way is taken for singular values between 1/4 and 4.
    """

    def project(self, w: Float[Array, "..."]) -> Float[Array, "..."]:
        (matrix,) = widen(w)
        return _with_singular_values(matrix, jnp.ones_like).astype(w.dtype)

    def expected(self, shape: tuple[int, ...]) -> str | None:
        fits = len(shape) >= 2 and shape[-2] >= shape[-1]
        return None if fits else "a matrix with at least as many rows as columns (or pjp.OrthogonalRows())"


@dataclass(frozen=True)
class OrthogonalRows(AbstractRestriction):
    """The rows of a matrix are orthogonal and of length 1: `OrthogonalColumns` of the transpose."""

    def project(self, w: Float[Array, "..."]) -> Float[Array, "..."]:
        return OrthogonalColumns().project(w.mT).mT

    def expected(self, shape: tuple[int, ...]) -> str | None:
        fits = len(shape) >= 2 and shape[-2] <= shape[-1]
        return None if fits else "a matrix with at most as many rows as columns (or pjp.OrthogonalColumns())"


_QUICK = 16.0
"""The eigenvalues of w w' tell singular values between a quarter and four times of what counts, less four
bits."""


def _with_singular_values(
    w: Float[Array, "*stack m n"], new: Callable[[Array], Array], unit: float = 1.0
) -> Float[Array, "*stack m n"]:
    """The matrices with the same singular vectors and other singular values; those that keep all of them are
    not touched.

    **Arguments:** `new`, from the singular values, in units of `unit`, to those wanted.
    """
    if not w.size:
        return w
    if w.shape[-2] > w.shape[-1]:
        return _with_singular_values(w.mT, new, unit).mT

    def product(a: Array, b: Array) -> Array:
        return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)

    scaled = w / unit
    squares, vectors = jnp.linalg.eigh(product(scaled, scaled.mT))

    def quick() -> Array:
        values = jnp.sqrt(jnp.maximum(squares, jnp.finfo(w.dtype).tiny))
        gain = (new(values) / values - 1)[..., None]
        return w + product(vectors, gain * product(vectors.mT, w))

    def slow() -> Array:
        left, values, right = jnp.linalg.svd(scaled, full_matrices=False)
        wanted = new(values)
        found = product(left * (unit * wanted)[..., None, :], right)
        return jnp.where(jnp.all(wanted == values, -1)[..., None, None], w, found)

    # How small a singular value is does not matter where it stays.
    stays = new(jnp.zeros((), w.dtype)) == 0
    near = jnp.all((squares <= _QUICK) & (stays | (squares >= 1 / _QUICK)))
    return jax.lax.cond(near, quick, slow)
