"""What a kind of constraint has to know: how to evaluate, copy, average and project."""

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..primitives import squared_norm

Arrays: TypeAlias = tuple[Array, ...]
Target: TypeAlias = Any  # the queried output, an array; None for a loss
Number: TypeAlias = float | Array
"""A setting: a Python number or a scalar array."""
Count: TypeAlias = int | np.ndarray[Any, np.dtype[np.int64]]
"""A number for all elements of an array, or an array of numbers that broadcasts to it."""


class Projected(NamedTuple):
    """A projection from consensus, without its copies (design: compressed form).

    - `output`: the new output, or None for a loss.
    - `displacements`: for each operand the mean over its copies of their displacements; None
      where it was not asked for.
    - `moved`: the squared displacement, summed over all copies of all operands.
    - `scatter`: the squared distance of all copies from the means over the copies of their operand, and of
      an operand whose mean was not asked for from where it was; of differences that are formed, as that of
      nearly equal sums would be rounding. None, where all operands have one copy and were asked for: zero.
    """

    output: Array | None
    displacements: tuple[Array | None, ...]
    moved: Array
    scatter: Array | None = None


class Reflection(NamedTuple):
    """The first half of a Douglas-Rachford step, for a constraint of the first set.

    - `output`: of the projection P x, or None for a loss.
    - `means`: `means()` for each operand the mean over copies of 2 P x - x.
    - `leave`: `leave(operands, relaxation, target)`, x' = x + 2 relaxation (m - P x) and |m - P x|^2, where m
      are all copies of `operands`, the second shadow; and what `AbstractConstraint.held` gives for x' and the
      target that `target()` returns.
    """

    output: Array | None
    means: Callable[[], Arrays]
    leave: Callable[[Arrays, Number, Callable[[], Array]], tuple[Arrays, Array, Any]]


@dataclass(frozen=True)
class AbstractConstraint(abc.ABC):
    """A batch of equal elementary constraints, which is the graph of an operation, or an output condition.

    *Operands* are the values the operation consumes, in the operation's own shapes; *copies*
    are what the expanded state stores. An operation that uses each element of an operand once
    needs no more than `forward` and `project`; one that uses it several times overrides
    `expand`, `average`, `evaluate` and `multiplicity`. `constants` are the operands that
    depend on no parameter and enter the operation exactly.

    Instances are immutable and compare by value, so that equal constraints share compilations.

    `weights` are those of the squared distances of the operands' copies beside that of the output
    (`pjax_prim.metric`), or None if all are 1.
    """

    weights: tuple[Number, ...] | None = field(default=None, kw_only=True)
    kind: ClassVar[str]
    is_loss: ClassVar[bool] = False
    is_step: ClassVar[bool] = False
    """Whether the operation is constant but for jumps, so that its derivative is zero."""
    has_opposite: ClassVar[bool] = False
    """Whether, as a loss, it may have a weight below zero: a proximal step the other way."""
    takes_labels: ClassVar[bool] = False
    """Whether a queried output that is far out leaves of a known output one branch."""
    elementwise: ClassVar[bool] = False
    """Whether an element of the output depends on the elements of the operands in its place alone."""

    @abc.abstractmethod
    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        """The operation's value."""

    @abc.abstractmethod
    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        """The nearest copies, with `target` the queried output (None for a loss)."""

    def project_output(
        self, copies: Arrays, target: Target, constants: Arrays
    ) -> tuple[Arrays, Array | None]:
        """Does what `project` does, and gives the output of the projected copies, too (None for a loss)."""
        projected = self.project(copies, target, constants)
        return projected, None if self.is_loss else self.evaluate(projected, constants)

    def multiplicity(self, shapes: Sequence[tuple[int, ...]]) -> tuple[Count, ...]:
        """How many copies each element of each operand has; where it is 0, `average` means nothing."""
        return (1,) * len(shapes)

    def expand(self, operands: Arrays) -> Arrays:
        """All copies of the operands."""
        return operands

    def average(self, copies: Arrays) -> Arrays:
        """The mean over copies, for each operand."""
        return copies

    def evaluate(self, copies: Arrays, constants: Arrays) -> Array:
        """The operation's value when each elementary operation has its own copies."""
        return self.forward(copies, constants)

    def project_average(
        self, operands: Arrays, target: Target, constants: Arrays, wanted: Sequence[bool]
    ) -> Projected:
        """Does `project` from copies that all agree, and then `average`.

        **Arguments:**

        - `operands`: the common values.
        - `target`: the queried output.
        - `constants`: the operands that enter exactly.
        - `wanted`: for each operand, whether its mean displacement is needed.
        """
        before = self.expand(operands)
        copies, output = self.project_output(before, target, constants)
        displaced = tuple(new - old for new, old in zip(copies, before, strict=True))
        means = self.average(displaced)
        kept = (x if want else jnp.zeros_like(x) for x, want in zip(means, wanted, strict=True))
        return Projected(
            output,
            tuple(mean if want else None for mean, want in zip(means, wanted, strict=True)),
            self.squared(displaced),
            self.squared_between(displaced, self.expand(tuple(kept))),
        )

    def scatter_of_means(
        self, operands: Arrays, displacements: Sequence[Array | None], moved: Array
    ) -> Array:
        """Gives `Projected.scatter` where no copy is formed: what copies moved less what their means did.

        It is exact to rounding of `moved`, and not below it: what the sums cannot resolve is not taken for
        zero.
        """
        counts = self.multiplicity([x.shape for x in operands])
        single = all(isinstance(count, int) and count == 1 or np.all(count == 1) for count in counts)
        if single and all(mean is not None for mean in displacements):
            return jnp.zeros_like(moved)
        kept: Array | float = 0.0
        for weight, mean, count in zip(self.weights_of(len(counts)), displacements, counts, strict=True):
            if mean is not None:
                wide = jnp.square(mean.astype(jnp.promote_types(mean.dtype, jnp.float32)))
                kept += weight * jnp.sum(wide * np.asarray(count, wide.dtype))
        return jnp.maximum(moved - kept, 2 * jnp.finfo(moved.dtype).eps * moved)

    def held(self, copies: Arrays, target: Array) -> Any:
        """Arrays from which `reflection` knows the projection of copies without reading them again.

        The pass over all copies that makes them can be part of the step before. By default there are none.
        """
        return None

    def reflection(self, copies: Arrays, target: Target, constants: Arrays, held: Any = None) -> Reflection:
        """Gives a `Reflection`; `held` is None, or what the method of this name gives for copies."""
        projected, output = self.project_output(copies, target, constants)

        def means() -> Arrays:
            return self.average(tuple(2 * p - x for p, x in zip(projected, copies, strict=True)))

        def leave(
            operands: Arrays, relaxation: Number, target: Callable[[], Array]
        ) -> tuple[Arrays, Array, Any]:
            shadow = self.expand(operands)
            moved = tuple(
                x + 2 * relaxation * (m - p) for x, m, p in zip(copies, shadow, projected, strict=True)
            )
            return moved, self.squared_between(shadow, projected), None

        return Reflection(output, means, leave)

    def reflect(
        self,
        copies: Arrays,
        operands: Arrays,
        target: Target,
        constants: Arrays,
        relaxation: Number,
    ) -> tuple[Arrays, Array | None, Array, Arrays]:
        """The second half of a Douglas-Rachford step, for a constraint of the second set.

        **Arguments:** `copies` x; `operands`, their first shadow m before it is expanded;
        `target`, `constants` as everywhere; `relaxation` r.

        **Returns:** x + 2 r (P(2 m - x) - m), the output of the projection P (None for a loss),
        the squared distance of P(2 m - x) and m, and the averages of the new copies (`average`).
        """
        shadow = self.expand(operands)
        reflected = tuple(2 * m - x for m, x in zip(shadow, copies, strict=True))
        projected, output = self.project_output(reflected, target, constants)
        moved = tuple(x + 2 * relaxation * (p - m) for x, p, m in zip(copies, projected, shadow, strict=True))
        return moved, output, self.squared_between(projected, shadow), self.average(moved)

    def spanned(self, shapes: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
        """Gives for each operand the axes of its copies along which one elementary constraint extends.

        Along all others the elementary constraints are independent: copies that are divided among
        devices there are projected without communication. `shapes` are those of the operands.
        """
        return ((),) * len(shapes)

    def elements(self, copies: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """The leading axes of the copies and of the output along which distances may be weighted.

        The elementary constraints there are independent, so that a weight of its own for each leaves
        the projection as it is. By default there are none, and the node has one weight. `copies` are shapes.
        """
        return ()

    def weighted(self, weights: tuple[Number, ...]) -> "AbstractConstraint | None":
        """The constraint with projections in a distance of these weights; None if it knows none."""
        return None

    def squared(self, displacements: Arrays) -> Array:
        """The squared length of displacements of all copies, with the weights."""
        pairs = zip(self.weights_of(len(displacements)), displacements, strict=True)
        return sum((weight * squared_norm(x) for weight, x in pairs), jnp.zeros(()))

    def squared_between(self, a: Arrays, b: Arrays) -> Array:
        """The squared distance of two sets of copies, with the weights."""
        pairs = zip(self.weights_of(len(a)), a, b, strict=True)
        return sum((weight * squared_distance(x, y) for weight, x, y in pairs), jnp.zeros(()))

    def weights_of(self, operands: int) -> tuple[Number, ...]:
        """The weight of each of so many operands."""
        return self.weights or (1,) * operands

    @property
    def steepest(self) -> float | None:
        """The largest slope of a function of one number; None of others, or where it is not known."""
        return None

    def describe(self) -> str:
        """Static parameters worth printing, or an empty string."""
        return ""


@dataclass(frozen=True)
class WeightedConstraint(AbstractConstraint):
    """A constraint whose projections know `weights`."""

    def weighted(self, weights: tuple[Number, ...]) -> AbstractConstraint:
        return replace(self, weights=weights)


def weight_operands(weights: tuple[Number, ...] | None, shape: tuple[int, ...]) -> list[Array]:
    """Weights as operands of a projection, each an array of this shape; none if all are 1."""
    return [jnp.full(shape, weight, jnp.result_type(float, weight)) for weight in weights or ()]


def squared_distance(a: Array, b: Array) -> Array:
    """The squared Euclidean distance of two arrays, accumulated in at least float32."""
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return squared_norm(a.astype(wide) - b.astype(wide))


def squared_distances(a: Arrays, b: Arrays) -> Array:
    """The squared distance of two tuples of arrays."""
    return jnp.asarray(sum(squared_distance(x, y) for x, y in zip(a, b, strict=True)))
