"""What every loss knows: its value, its proximal step, and how it pulls in a displacement."""

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ... import primitives as pp
from ...errors import GraphError
from ...primitives._arguments import is_concrete
from ...primitives._losses import moved_by
from ..constraint import AbstractConstraint, Arrays, Number, Target
from ..registry import ConstraintRule, RuleContext, register_projection


@dataclass(frozen=True)
class Loss(AbstractConstraint):
    """A loss, with its proximal operator in place of a projection.

    Its one operand is x, an array of elements; the constants are the targets and last the step of the
    proximal operator for each element, at least zero, in the shape of the loss's value. An element whose
    step is zero stays where it is, bit for bit; one whose step is NaN becomes NaN.

    - `name`: as in the name of the function; `operation`: its primitive, of (x, *targets, step).
    - `is_checked`: whether `check` looks at the constants.
    """

    name: ClassVar[str]
    operation: ClassVar[pp.Definition]
    is_checked: ClassVar[bool] = False
    kind: ClassVar[str] = "loss"
    is_loss: ClassVar[bool] = True

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        return self.operation.bind(*operands, *constants)[0]

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        (x,), (*targets, step) = copies, constants
        step = step if self.weights is None else step / self.weights[0]
        return (self.proximal(x, tuple(targets), step),)

    @abc.abstractmethod
    def proximal(self, x: Array, targets: Arrays, step: Array) -> Array:
        """The proximal point of x: the minimum of the loss plus |x' - x|^2 / (2 step), element by element."""

    @abc.abstractmethod
    def pull(self, operands: Arrays, constants: Arrays, lam: Number) -> Array:
        """By how much the proximal operator moves the operand, with step `lam` in place of the constant.

        Of a condition (margin, equality) it is that of half the squared distance from its set. For
        small steps this is minus `lam` times the gradient, to full relative precision.
        """

    def weighted(self, weights: tuple[Number, ...]) -> AbstractConstraint:
        """A proximal step lam in a distance of weight w is one of lam / w."""
        return replace(self, weights=weights)

    def check(self, constants: Sequence[Any]) -> None:
        """Raises `ArgumentError` for targets that are not allowed; `constants` can all be looked at."""

    def describe(self) -> str:
        return self.name


@dataclass(frozen=True)
class Condition(Loss):
    """A condition on outputs: a positive step goes all the way to the nearest point of the set."""

    @abc.abstractmethod
    def nearest(self, x: Array, targets: Arrays) -> Array:
        """The nearest point of the set."""

    def proximal(self, x: Array, targets: Arrays, step: Array) -> Array:
        return moved_by(x, self.nearest(x, targets), of_elements(step, x))

    def pull(self, operands: Arrays, constants: Arrays, lam: Number) -> Array:
        (x,), (*targets, _) = operands, constants
        return (self.nearest(x, tuple(targets)) - x) * (lam / (1 + lam))


def of_elements(step: Array, x: Array) -> Array:
    """The steps with axes of size 1 where an element of the loss extends in x."""
    return step.reshape(step.shape + (1,) * (x.ndim - step.ndim))


def by_size(lam: Number, dtype: Any, small: Callable[[], Array], any_size: Callable[[], Array]) -> Array:
    """What a step of size `lam` gives: to first order where that is exact up to half of the digits.

    Both are computed where `lam` is traced.
    """
    is_small = lam**2 <= jnp.finfo(dtype).eps
    if is_concrete(is_small):
        return small() if is_small else any_size()
    return jnp.where(is_small, small(), any_size())


def last_axis(shapes: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """The axes along which a loss of classes extends (`AbstractConstraint.spanned`)."""
    return ((len(shapes[0]) - 1,),)


def some_of(step: Any) -> Any:
    """Which elements count."""
    return np.asarray(step) > 0


def register(constraint: type[Loss]) -> None:
    """Makes a loss what constraint graphs end at: the rule of its operation's primitive.

    The static parameters of the operation are those of the constraint.
    """

    def rule(ctx: RuleContext) -> ConstraintRule:
        *targets, step = ctx.constant[1:]
        if not all(targets):
            raise GraphError(f"loss {constraint.name!r}: the labels depend on a parameter; they must be data")
        if not step:
            raise GraphError(f"loss {constraint.name!r}: its step depends on a parameter; it must be data")
        return ConstraintRule(constraint(**ctx.params), (0,), tuple(range(1, len(ctx.inputs))))

    register_projection(constraint.operation.primitive, rule, loss=True)
