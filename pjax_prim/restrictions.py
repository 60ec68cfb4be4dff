"""Exact conditions on weights, applied where all copies of a parameter agree."""

import abc
import math
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from .errors import ArgumentError


class AbstractRestriction(abc.ABC):
    """A set of parameters with its projection.

    Copies of a parameter whose distances are weighted alike along an axis have their nearest common value
    within a set at the projection of their mean; so one projection of the consensus is exact.
    """

    @abc.abstractmethod
    def project(self, w: Float[Array, "..."]) -> Float[Array, "..."]:
        """The nearest point of the set in squared distance."""


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
