"""Constraints of differentiable operations that have no projection of their own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from ..primitives._arguments import compute_dtype
from .constraint import AbstractConstraint, Arrays, Target

STEPS = 6
"""How many linearisations one projection takes."""

_MOST_ITERATIONS = 64
"""Of conjugate gradients, where there are as many unknowns."""


@dataclass(frozen=True)
class Linearised(AbstractConstraint):
    """y = f(x), whose nearest point is found by a fixed number of Gauss-Newton steps.

    Of all operands and outputs together, the next point is the nearest one of the graph of the linearisation
    at the last one,

        x' = x + J^T (I + J J^T)^-1 (y - f(x_i) + J (x_i - x)).

    A step that comes no nearer is taken back by three quarters. The nearest of the points is the result, so
    it is never farther than the point with the inputs where they are.

    - `function`: of operands and constants.
    - `name`: of the operation.
    - `dtypes`: of the operands in the function, which sees them so.
    - `leading`: along how many leading axes of all arrays its elements are independent: iterations of loops.
    """

    function: Callable[..., Array]
    name: str
    dtypes: tuple[str, ...]
    leading: int = 0
    kind: ClassVar[str] = "linearised"

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        given = (x.astype(dtype) for x, dtype in zip(operands, self.dtypes, strict=True))
        output = self.function(*given, *constants)
        return output.astype(compute_dtype(output.dtype))

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        return self.project_output(copies, target, constants)[0]

    def project_output(
        self, copies: Arrays, target: Target, constants: Arrays
    ) -> tuple[Arrays, Array | None]:
        def function(*operands: Array) -> Array:
            return self.forward(operands, constants)

        return nearest(function, copies, target)

    def spanned(self, shapes: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(range(self.leading, len(shape))) for shape in shapes)

    def describe(self) -> str:
        return self.name


@dataclass(frozen=True)
class Held(Linearised):
    """y = f(x), where the derivative is zero wherever there is one: nothing is asked of x.

    The nearest point is taken to be the one with the inputs where they are, as a gradient takes it.

    - `refusal`: what is said where parameters reach losses through such operations alone.
    """

    refusal: str = field(kw_only=True)
    kind: ClassVar[str] = "held"

    def project_output(
        self, copies: Arrays, target: Target, constants: Arrays
    ) -> tuple[Arrays, Array | None]:
        return copies, self.forward(copies, constants)


@dataclass(frozen=True)
class LinearisedElementwise(Linearised):
    """The same, of each element alone."""

    elementwise: ClassVar[bool] = True

    def project_output(
        self, copies: Arrays, target: Target, constants: Arrays
    ) -> tuple[Arrays, Array | None]:
        def one(operands: Arrays, y: Array, constants: Arrays) -> tuple[Arrays, Array]:
            return nearest(lambda *x: self.forward(x, constants), operands, y)

        many = one
        for _ in range(target.ndim):
            many = jax.vmap(many)
        return many(copies, target, constants)

    def spanned(self, shapes: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
        return ((),) * len(shapes)


def nearest(function: Callable[..., Array], x: Arrays, y: Array) -> tuple[Arrays, Array]:
    """The nearest point of a function's graph, inputs and output: see `Linearised`."""
    unknowns = min(y.size, sum(operand.size for operand in x))
    in_outputs = unknowns == y.size

    def cost_of(at: Arrays, output: Array) -> Array:
        moved = sum((jnp.sum(jnp.square(a - b)) for a, b in zip(at, x, strict=True)), jnp.zeros((), y.dtype))
        return moved + jnp.sum(jnp.square(output - y))

    def next_point(at: Arrays, output: Array, push: Callable[..., Array]) -> Arrays:
        transposed = jax.linear_transpose(push, *x)

        def pull(output: Array) -> Arrays:
            return tuple(transposed(output))

        residual = y - output + push(*(a - b for a, b in zip(at, x, strict=True)))
        if in_outputs:
            multiplier = solve(lambda v: v + push(*pull(v)), residual, unknowns)
            moved = pull(multiplier)
        else:
            moved = solve(lambda v: _add(v, pull(push(*v))), pull(residual), unknowns)
        return _add(x, moved)

    def step(_: int, carry: tuple[Arrays, Arrays, Array, Array]) -> tuple[Arrays, Arrays, Array, Array]:
        at, best, best_output, best_cost = carry
        output, push = jax.linearize(function, *at)
        cost = cost_of(at, output)
        better = cost < best_cost
        after = next_point(at, output, push)
        after = tuple(
            jnp.where(better, a, c + 0.25 * (b - c)) for a, b, c in zip(after, at, best, strict=True)
        )
        # Where nothing is finite the search goes on from the best point.
        after = tuple(jnp.where(jnp.isfinite(a), a, c) for a, c in zip(after, best, strict=True))
        best = tuple(jnp.where(better, a, c) for a, c in zip(at, best, strict=True))
        return after, best, jnp.where(better, output, best_output), jnp.where(better, cost, best_cost)

    start = function(*x)
    infinite = jnp.full_like(cost_of(x, start), jnp.inf)
    at, best, output, cost = lax.fori_loop(0, STEPS, step, (x, x, start, infinite))
    last = function(*at)
    better = cost_of(at, last) < cost
    return (
        tuple(jnp.where(better, a, c) for a, c in zip(at, best, strict=True)),
        jnp.where(better, last, output),
    )


def _add(a: Arrays, b: Arrays) -> Arrays:
    return tuple(x + y for x, y in zip(a, b, strict=True))


def solve(apply: Callable[[Any], Any], target: Any, unknowns: int) -> Any:
    """The solution of `apply(v) = target`, for an operator that is the identity plus a positive one."""
    dtype = jax.tree.leaves(target)[0].dtype
    tolerance = 10 * float(jnp.finfo(dtype).eps)
    found, _ = jax.scipy.sparse.linalg.cg(
        apply, target, tol=tolerance, maxiter=min(2 * unknowns, _MOST_ITERATIONS)
    )
    return found
