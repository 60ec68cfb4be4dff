"""Constraints of elementwise operations: sums, products, relu, maxima."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from .. import primitives as pp
from ..primitives._arguments import compute_dtype
from .constraint import (
    AbstractConstraint,
    Arrays,
    Number,
    Projected,
    Target,
    WeightedConstraint,
)
from .registry import ConstraintRule, Movement, Rule, RuleContext, register_projection
from .scalar import Scalar


@dataclass(frozen=True)
class Identity(WeightedConstraint):
    """y = x. Inserted where a graph needs one more constraint to be two-coloured."""

    kind: ClassVar[str] = "identity"
    elementwise: ClassVar[bool] = True

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        return operands[0]

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        if self.weights is not None:
            return (_project_scale(copies[0], jnp.ones_like(target), target, self.weights[0]),)
        return tuple(pp.project_identity_p.bind(*copies, target))


@dataclass(frozen=True)
class SignedSum(WeightedConstraint):
    """y = f(sum of +-x_i, plus +-constants), with an f of its own for each kind.

    **Arguments:** `signs` of the operands, `shifts` of the constants; each 1 or -1.
    """

    signs: tuple[int, ...]
    shifts: tuple[int, ...] = ()

    def total(self, operands: Arrays, constants: Arrays) -> Array:
        total: Array = _signed_sum(self.signs + self.shifts, operands + constants)
        return total

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        if self.weights is None:
            return self.project_equal(copies, target, constants)
        projected = self.project_average(copies, target, constants, (True,) * len(copies))
        pairs = zip(copies, projected.displacements, strict=True)
        return tuple(x if move is None else (x + move).astype(x.dtype) for x, move in pairs)

    def project_average(
        self, operands: Arrays, target: Target, constants: Arrays, wanted: Sequence[bool]
    ) -> Projected:
        total, count = self.total(operands, constants), len(operands)
        if self.weights is None:
            # All inputs move by one step, up to their signs: it is never repeated for each.
            step, output = self.displace(total, target, inputs=count)
            moves = (step,) * count
            moved = pp.squared_norm(step, count)
        else:
            # Inputs of weights w_i move by d / w_i, as if there were sum(1 / w_i) of them.
            number = jnp.full_like(total, sum(1 / w for w in self.weights), dtype=compute_dtype(total.dtype))
            step, output = self.displace(total, target, number)
            moves = tuple(step / weight for weight in self.weights)
            moved = self.squared(moves)
        signed = zip(self.signs, moves, wanted, strict=True)
        return Projected(output, tuple(_signed(s, x) if want else None for s, x, want in signed), moved)

    @abc.abstractmethod
    def project_equal(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        """The nearest copies where no distance is weighted."""

    @abc.abstractmethod
    def displace(self, total: Array, target: Target, *number: Array, **inputs: int) -> tuple[Array, Array]:
        """The step of each of so many inputs, and the output then; the number is an array, or `inputs`."""

    def describe(self) -> str:
        text = "".join("+" if sign > 0 else "-" for sign in self.signs)
        shift = "".join("+c" if sign > 0 else "-c" for sign in self.shifts)
        return "" if set(text) == {"+"} and not shift else text + shift


@dataclass(frozen=True)
class Sum(SignedSum):
    """y = sum of +-x_i, plus +-constants."""

    kind: ClassVar[str] = "sum"

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        return self.total(operands, constants)

    def project_equal(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        if self.shifts:
            # Beside a constant of a far larger size the copies are left alone where the output is.
            target = _signed_sum(self.signs, copies) + (target - self.total(copies, constants))
        return tuple(
            pp.project_combination_p.bind(*copies, target, coefficients=tuple(map(float, self.signs)))
        )

    def displace(self, total: Array, target: Target, *number: Array, **inputs: int) -> tuple[Array, Array]:
        (step,) = pp.displace_sum_p.bind(total, target, *number, **inputs)
        return step, total + (number[0] if number else inputs["inputs"]) * step


@dataclass(frozen=True)
class SumRelu(SignedSum):
    """y = relu(sum of +-x_i, plus +-constants): what chains of additions that end in relu become."""

    kind: ClassVar[str] = "sum_relu"

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        return jnp.maximum(self.total(operands, constants), 0)

    def project_equal(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        # Signs are isometries and a constant shifts the first input; both are undone afterwards.
        inputs = [_signed(sign, copy) for sign, copy in zip(self.signs, copies, strict=True)]
        if not self.shifts:
            projected = pp.project_sum_relu_p.bind(*inputs, target)
        else:
            shifted = inputs[0] + _signed_sum(self.shifts, constants)
            first, *rest = pp.project_sum_relu_p.bind(shifted, *inputs[1:], target)
            projected = (inputs[0] + (first - shifted), *rest)
        return tuple(_signed(sign, x) for sign, x in zip(self.signs, projected, strict=True))

    def displace(self, total: Array, target: Target, *number: Array, **inputs: int) -> tuple[Array, Array]:
        step, output = pp.displace_sum_relu_p.bind(total, target, *number, **inputs)
        return step, output


@dataclass(frozen=True)
class Scale(WeightedConstraint):
    """y = c x with a constant c, or y = x / c."""

    divide: bool = False
    kind: ClassVar[str] = "scale"
    elementwise: ClassVar[bool] = True

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        return operands[0] / constants[0] if self.divide else operands[0] * constants[0]

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        factor = 1 / constants[0] if self.divide else constants[0]
        if self.weights is not None:
            return (_project_scale(copies[0], factor, target, self.weights[0]),)
        return tuple(pp.project_scale_p.bind(copies[0], factor, target, jnp.zeros_like(factor)))


@dataclass(frozen=True)
class Product(WeightedConstraint):
    """y = a b."""

    kind: ClassVar[str] = "product"
    elementwise: ClassVar[bool] = True

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        return operands[0] * operands[1]

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        if self.weights is None:
            return tuple(pp.project_product_p.bind(*copies, target))
        # As in `linear.Linear.project`.
        root_u, root_v = map(jnp.sqrt, self.weights)
        a, b = pp.project_product_p.bind(copies[0] / root_v, copies[1] / root_u, target / (root_u * root_v))
        return a * root_v, b * root_u


@dataclass(frozen=True)
class Quotient(AbstractConstraint):
    """y = a / b, projected onto the closure a = y b: a product of y and b that is a."""

    kind: ClassVar[str] = "quotient"
    elementwise: ClassVar[bool] = True

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        return operands[0] / operands[1]

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        return self.project_output(copies, target, constants)[0]

    def project_output(
        self, copies: Arrays, target: Target, constants: Arrays
    ) -> tuple[Arrays, Array | None]:
        """The output is known where b is 0, too."""
        numerator, denominator = copies
        output, denominator = pp.project_product_p.bind(target, denominator, numerator)
        return (output * denominator, denominator), output


@dataclass(frozen=True)
class Maximum(AbstractConstraint):
    """y = max(a, b), or min(a, b) with `negate`."""

    negate: bool = False
    kind: ClassVar[str] = "maximum"
    elementwise: ClassVar[bool] = True

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        return (jnp.minimum if self.negate else jnp.maximum)(*operands)

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        sign = -1 if self.negate else 1
        stacked = jnp.stack([_signed(sign, copy) for copy in copies], -1)
        (moved,) = pp.project_max_p.bind(stacked, _signed(sign, target))
        return tuple(_signed(sign, moved[..., i]) for i in range(len(copies)))

    def describe(self) -> str:
        return "min" if self.negate else "max"


@dataclass(frozen=True)
class ShiftedRelu(AbstractConstraint):
    """y = max(x, c) with a constant c, or min(x, c) with `negate`."""

    negate: bool = False
    kind: ClassVar[str] = "clip"
    elementwise: ClassVar[bool] = True

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        return (jnp.minimum if self.negate else jnp.maximum)(operands[0], constants[0])

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        sign, (bound,) = -1 if self.negate else 1, constants
        (moved,) = pp.project_sum_relu_p.bind(_signed(sign, copies[0] - bound), _signed(sign, target - bound))
        return (_signed(sign, moved) + bound,)

    def describe(self) -> str:
        return "above" if self.negate else "below"


def _project_scale(x: Array, factor: Array, target: Array, weight: Number) -> Array:
    """Onto y = factor x, where x has a weight: that of sqrt(weight) x."""
    root = jnp.sqrt(weight)
    (moved,) = pp.project_scale_p.bind(root * x, factor / root, target, jnp.zeros_like(factor))
    return moved / root


def _signed(sign: int, array: Array) -> Array:
    return array if sign > 0 else -array


def _signed_sum(signs: tuple[int, ...], arrays: Arrays) -> Any:
    total: Any = 0
    for sign, array in zip(signs, arrays, strict=True):
        total = total + _signed(sign, array)
    return total


def _split(ctx: RuleContext) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Positions of the variable and of the constant inputs."""
    positions = range(len(ctx.inputs))
    return (
        tuple(i for i in positions if not ctx.constant[i]),
        tuple(i for i in positions if ctx.constant[i]),
    )


def _combination(*signs: int) -> Rule:
    def rule(ctx: RuleContext) -> ConstraintRule:
        operands, constants = _split(ctx)
        constraint = Sum(tuple(signs[i] for i in operands), tuple(signs[i] for i in constants))
        return ConstraintRule(constraint, operands, constants, broadcast=True)

    return rule


def _multiply(ctx: RuleContext) -> ConstraintRule:
    operands, constants = _split(ctx)
    constraint = Scale() if constants else Product()
    return ConstraintRule(constraint, operands, constants, broadcast=True)


def _divide(ctx: RuleContext) -> ConstraintRule:
    if ctx.constant[1]:
        return ConstraintRule(Scale(divide=True), (0,), (1,), broadcast=True)
    if ctx.literals[0] == 1:
        return ConstraintRule(Scalar("reciprocal"), (1,))
    # A constant numerator has copies, as constants in products do.
    return ConstraintRule(Quotient(), (0, 1), broadcast=True)


def _extremum(negate: bool) -> Rule:
    def rule(ctx: RuleContext) -> ConstraintRule | Movement:
        operands, constants = _split(ctx)
        if any(ctx.literals[i] == (jnp.inf if negate else -jnp.inf) for i in constants):
            return Movement("partial")
        if not negate and any(ctx.literals[i] == 0 for i in constants):
            return ConstraintRule(SumRelu((1,)), operands, broadcast=True)
        constraint = ShiftedRelu(negate) if constants else Maximum(negate)
        return ConstraintRule(constraint, operands, constants, broadcast=True)

    return rule


register_projection(lax.add_p, _combination(1, 1))
register_projection(lax.sub_p, _combination(1, -1))
register_projection(lax.neg_p, _combination(-1))
register_projection(lax.mul_p, _multiply)
register_projection(lax.div_p, _divide)
register_projection(lax.max_p, _extremum(negate=False))
register_projection(lax.min_p, _extremum(negate=True))


def _sum_relu(ctx: RuleContext) -> ConstraintRule:
    operands, constants = _split(ctx)
    constraint = SumRelu((1,) * len(operands), (1,) * len(constants))
    return ConstraintRule(constraint, operands, constants, broadcast=True)


register_projection(pp.sum_relu_p.primitive, _sum_relu)
