"""Constraints of elementwise operations: sums, products, relu, maxima."""

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
class Sum(WeightedConstraint):
    """y = sum of +-x_i, plus +-constants.

    **Arguments:** `signs` of the operands, `shifts` of the constants; each 1 or -1.
    """

    signs: tuple[int, ...]
    shifts: tuple[int, ...] = ()
    kind: ClassVar[str] = "sum"

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        return _signed_sum(self.signs + self.shifts, operands + constants)

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        if self.weights is not None:
            return _moved(copies, self.project_average(copies, target, constants, (True,) * len(copies)))
        if self.shifts:
            # Beside a constant of a far larger size the copies are left alone where the output is.
            asked = target - _signed_sum(self.signs + self.shifts, copies + constants)
            target = _signed_sum(self.signs, copies) + asked
        return tuple(
            pp.project_combination_p.bind(*copies, target, coefficients=tuple(map(float, self.signs)))
        )

    def project_average(
        self, operands: Arrays, target: Target, constants: Arrays, wanted: Sequence[bool]
    ) -> Projected:
        total = _signed_sum(self.signs + self.shifts, operands + constants)
        if self.weights is not None:
            number = _number_of_inputs(self.weights, total)
            (step,) = pp.displace_sum_p.bind(total, target, number)
            return _steps(self, self.signs, step, total + number * step, wanted)
        (step,) = pp.displace_sum_p.bind(total, target, inputs=len(operands))
        return _equal_steps(self.signs, step, total + len(operands) * step, wanted)

    def describe(self) -> str:
        return _describe_signs(self.signs, self.shifts)


@dataclass(frozen=True)
class SumRelu(WeightedConstraint):
    """y = relu(sum of +-x_i, plus +-constants): what chains of additions that end in relu become."""

    signs: tuple[int, ...]
    shifts: tuple[int, ...] = ()
    kind: ClassVar[str] = "sum_relu"

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        return jnp.maximum(_signed_sum(self.signs + self.shifts, operands + constants), 0)

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        if self.weights is not None:
            return _moved(copies, self.project_average(copies, target, constants, (True,) * len(copies)))
        # Signs are isometries and a constant shifts the first input; both are undone afterwards.
        offset = _signed_sum(self.shifts, constants)
        inputs = [_signed(sign, copy) for sign, copy in zip(self.signs, copies, strict=True)]
        if not self.shifts:
            projected = pp.project_sum_relu_p.bind(*inputs, target)
        else:
            shifted = inputs[0] + offset
            first, *rest = pp.project_sum_relu_p.bind(shifted, *inputs[1:], target)
            projected = (inputs[0] + (first - shifted), *rest)
        return tuple(_signed(sign, x) for sign, x in zip(self.signs, projected, strict=True))

    def project_average(
        self, operands: Arrays, target: Target, constants: Arrays, wanted: Sequence[bool]
    ) -> Projected:
        total = _signed_sum(self.signs + self.shifts, operands + constants)
        if self.weights is not None:
            number = _number_of_inputs(self.weights, total)
            step, output = pp.displace_sum_relu_p.bind(total, target, number)
            return _steps(self, self.signs, step, output, wanted)
        step, output = pp.displace_sum_relu_p.bind(total, target, inputs=len(operands))
        return _equal_steps(self.signs, step, output, wanted)

    def describe(self) -> str:
        return _describe_signs(self.signs, self.shifts)


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


def _equal_steps(signs: tuple[int, ...], step: Array, output: Array, wanted: Sequence[bool]) -> Projected:
    """All inputs of a sum move by one step, up to their signs: it is never repeated for each."""
    displacements = _equal_displacements(signs, step, wanted)
    return Projected(output, displacements, pp.squared_norm(step, len(signs)))


def _number_of_inputs(weights: tuple[Number, ...], total: Array) -> Array:
    """Inputs of weights w_i move by d / w_i, as if there were sum(1 / w_i) of them."""
    number = sum(1 / weight for weight in weights)
    return jnp.full_like(total, number, dtype=compute_dtype(total.dtype))


def _steps(
    constraint: AbstractConstraint,
    signs: tuple[int, ...],
    step: Array,
    output: Array,
    wanted: Sequence[bool],
) -> Projected:
    """Each input of a sum moves by the step over its weight, up to its sign."""
    weights = constraint.weights_of(len(signs))
    moves = tuple(_signed(sign, step / weight) for sign, weight in zip(signs, weights, strict=True))
    kept = tuple(move if want else None for move, want in zip(moves, wanted, strict=True))
    return Projected(output, kept, constraint.squared(moves))


def _moved(copies: Arrays, projected: Projected) -> Arrays:
    pairs = zip(copies, projected.displacements, strict=True)
    return tuple(x if move is None else (x + move).astype(x.dtype) for x, move in pairs)


def _equal_displacements(
    signs: tuple[int, ...], step: Array, wanted: Sequence[bool]
) -> tuple[Array | None, ...]:
    return tuple(_signed(sign, step) if want else None for sign, want in zip(signs, wanted, strict=True))


def _signed(sign: int, array: Array) -> Array:
    return array if sign > 0 else -array


def _signed_sum(signs: tuple[int, ...], arrays: Arrays) -> Any:
    total: Any = 0
    for sign, array in zip(signs, arrays, strict=True):
        total = total + _signed(sign, array)
    return total


def _describe_signs(signs: tuple[int, ...], shifts: tuple[int, ...]) -> str:
    text = "".join("+" if sign > 0 else "-" for sign in signs)
    shift = "".join("+c" if sign > 0 else "-c" for sign in shifts)
    return "" if set(text) == {"+"} and not shift else text + shift


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
