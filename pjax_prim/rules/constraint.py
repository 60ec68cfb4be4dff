"""What a kind of constraint has to know: how to evaluate, copy, average and project."""

import abc
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

Arrays = tuple[Array, ...]


class Projected(NamedTuple):
    """A projection from consensus, without its copies (design: compressed form).

    - `output`: the new output, or None for a loss.
    - `means`: for each operand the mean over its copies of the projected copies; None where
      it was not asked for.
    - `moved`: for each operand the squared displacement, summed over all copies.
    """

    output: Array | None
    means: tuple[Array | None, ...]
    moved: Arrays


class AbstractConstraint(abc.ABC):
    """A batch of equal elementary constraints: the graph of an operation, or an output condition.

    *Operands* are the values the operation consumes, in the operation's own shapes; *copies*
    are what the expanded state stores. An operation that uses each element of an operand once
    needs no more than `forward` and `project`; one that uses it several times overrides
    `expand`, `average`, `evaluate` and `multiplicity`. `constants` are the operands that
    depend on no parameter and enter the operation exactly.

    Instances are immutable and compare by value, so that equal constraints share compilations.
    """

    kind: ClassVar[str]
    is_loss: ClassVar[bool] = False

    @abc.abstractmethod
    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        """The operation's value."""

    @abc.abstractmethod
    def project(self, copies: Arrays, target: Array | None, constants: Arrays) -> Arrays:
        """The nearest copies, with `target` the queried output (None for a loss)."""

    def multiplicity(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """How many copies each element of each operand has."""
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
        self, operands: Arrays, target: Array | None, constants: Arrays, wanted: Sequence[bool]
    ) -> Projected:
        """`project` from copies that all agree, then `average`.

        **Arguments:**

        - `operands`: the common values.
        - `target`: the queried output.
        - `constants`: as everywhere.
        - `wanted`: for each operand, whether its mean is needed.
        """
        before = self.expand(operands)
        copies = self.project(before, target, constants)
        output = None if self.is_loss else self.evaluate(copies, constants)
        means = self.average(copies)
        return Projected(
            output,
            tuple(mean if want else None for mean, want in zip(means, wanted, strict=True)),
            tuple(squared_distance(a, b) for a, b in zip(copies, before, strict=True)),
        )

    def describe(self) -> str:
        """Static parameters worth printing, or an empty string."""
        return ""


def squared_distance(a: Any, b: Any) -> Array:
    """The squared Euclidean distance of two arrays, accumulated in at least float32."""
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return jnp.sum(jnp.square(a.astype(wide) - b.astype(wide)))
