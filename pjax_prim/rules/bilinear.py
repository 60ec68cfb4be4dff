"""The bilinear constraint: one dot product per output element of a `dot_general`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from .. import primitives as pp
from ..primitives.dot import displacement, row_dot
from .constraint import AbstractConstraint, Arrays, Projected, Reflection, Target
from .registry import ConstraintRule, RuleContext, register_projection


@dataclass(frozen=True)
class Bilinear(AbstractConstraint):
    """y = dot_general(a, b), any contraction, any batch axes.

    In canonical form `a` is (G, P, K), `b` is (G, Q, K) and the output (G, P, Q): G the batch
    axes, K the contracted ones. Every output element has its own copy of a row of `a` and of
    a row of `b`, so that the copies of both are (G, P, Q, K).

    **Arguments:** `shapes` of the operands; `dimensions` as in `jax.lax.dot_general`;
    `precision` and `preferred_element_type` of the traced product.
    """

    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    dimensions: tuple[tuple[tuple[int, ...], tuple[int, ...]], tuple[tuple[int, ...], tuple[int, ...]]]
    precision: Any = None
    preferred_element_type: Any = None
    kind: ClassVar[str] = "dot"

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        a, b = operands
        return lax.dot_general(
            a,
            b,
            self.dimensions,
            precision=self.precision,
            preferred_element_type=self.preferred_element_type,
        )

    def multiplicity(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        return math.prod(self._free_sizes(1)), math.prod(self._free_sizes(0))

    def expand(self, operands: Arrays) -> Arrays:
        a, b = self._canonical(operands)
        shape = (*a.shape[:2], *b.shape[1:])
        return jnp.broadcast_to(a[:, :, None], shape), jnp.broadcast_to(b[:, None], shape)

    def average(self, copies: Arrays) -> Arrays:
        a, b = copies
        return self._original(jnp.mean(a, 2), 0), self._original(pp.mean_rows_p.bind(b)[0], 1)

    def evaluate(self, copies: Arrays, constants: Arrays) -> Array:
        a, b = copies
        wide = jnp.promote_types(a.dtype, jnp.float32)
        output = row_dot(a.astype(wide), b.astype(wide))
        return self._output(output).astype(self._output_dtype(a, b))

    def project(self, copies: Arrays, target: Target, constants: Arrays) -> Arrays:
        a, b = copies
        return tuple(pp.project_dot_p.bind(a, b, target.reshape(a.shape[:3])))

    def reflection(self, copies: Arrays, target: Target, constants: Arrays) -> Reflection:
        a, b = copies
        c, e, step_a, step_b, output = pp.displace_dot_p.bind(a, b, target.reshape(a.shape[:3]))

        def means() -> Arrays:
            keep, cross = ((1 + 2 * c)[..., None], 2 * e[..., None])
            mean_a = jnp.mean(keep * a + cross * b, 2)
            (mean_b,) = pp.mean_rows_p.bind(keep * b + cross * a)
            mean_a = mean_a.at[..., 0].add(2 * jnp.mean(step_a, 2)).astype(a.dtype)
            mean_b = mean_b.at[..., 0].add(2 * jnp.mean(step_b, 1)).astype(b.dtype)
            return self._original(mean_a, 0), self._original(mean_b, 1)

        def leave(operands: Arrays, relaxation: float) -> tuple[Arrays, Array]:
            mean_a, mean_b = self._canonical(operands)
            *moved, squared = pp.leave_dot_p.bind(
                a, b, mean_a[:, :, None], mean_b[:, None], c, e, step_a, step_b,
                relaxation=relaxation,
            )  # fmt: skip
            return tuple(moved), jnp.sum(squared)

        return Reflection(self._output(output).astype(self._output_dtype(a, b)), means, leave)

    def reflect(
        self,
        copies: Arrays,
        operands: Arrays,
        target: Target,
        constants: Arrays,
        relaxation: float,
    ) -> tuple[Arrays, Array | None, Array]:
        a, b = self._canonical(operands)
        new_a, new_b, output, moved = pp.reflect_dot_p.bind(
            *copies,
            a[:, :, None],
            b[:, None],
            target.reshape(copies[0].shape[:3]),
            relaxation=relaxation,
        )
        output = self._output(output).astype(self._output_dtype(a, b))
        return (new_a, new_b), output, jnp.sum(moved)

    def project_average(
        self, operands: Arrays, target: Target, constants: Arrays, wanted: Sequence[bool]
    ) -> Projected:
        r"""Three matrix products and one elementwise solve; memory of the output, not of copies.

        With $p = ab^T$ the dot products and $q$ the squared norms, the displacement of the
        copies (see `primitives.dot.displacement`) is $\Delta a = c\,a + e\,b$,
        $\Delta b = c\,b + e\,a$ with matrices $c$, $e$ of the output's shape, so the means move
        by $a\,\bar c + e b / Q$ and $b\,\bar c + e^T a / P$.
        """
        a, b = self._canonical(operands)
        dtypes = a.dtype, b.dtype
        dtype = self._output_dtype(a, b)
        wide = jnp.promote_types(jnp.result_type(a, b, target), jnp.float32)
        p = self._product("gpk,gqk->gpq", a, b, wide)
        z = target.reshape(p.shape).astype(wide)
        norm_a = jnp.sum(jnp.square(a.astype(wide)), -1)[:, :, None]
        norm_b = jnp.sum(jnp.square(b.astype(wide)), -1)[:, None, :]
        q = norm_a + norm_b
        # Rounding of a low-precision product may break |2p| <= q, which the solve relies on.
        s, d = (jnp.maximum(0.25 * q + half, 0) for half in (0.5 * p, -0.5 * p))
        c, e, step_a, step_b, output = displacement(s, d, z - p, z)
        first_a, first_b = a[:, :, None, 0].astype(wide), b[:, None, :, 0].astype(wide)

        def squared(norm: Array, other: Array, first: Array, first_other: Array, step: Array) -> Array:
            along = step * (2 * (c * first + e * first_other) + step)
            return jnp.sum(c * c * norm + e * e * other + 2 * c * e * p + along)

        moved = (
            jnp.maximum(squared(norm_a, norm_b, first_a, first_b, step_a), 0),
            jnp.maximum(squared(norm_b, norm_a, first_b, first_a, step_b), 0),
        )
        means: list[Array | None] = [None, None]
        if wanted[0]:
            shift = self._product("gpq,gqk->gpk", e, b, wide) / b.shape[1]
            mean = a + (a * jnp.mean(c, 2)[..., None] + shift)
            means[0] = self._original(
                mean.at[..., 0].add(jnp.mean(step_a, 2)).astype(dtypes[0]), 0
            )
        if wanted[1]:
            shift = self._product("gpq,gpk->gqk", e, a, wide) / a.shape[1]
            mean = b + (b * jnp.mean(c, 1)[..., None] + shift)
            means[1] = self._original(
                mean.at[..., 0].add(jnp.mean(step_b, 1)).astype(dtypes[1]), 1
            )
        return Projected(self._output(output).astype(dtype), tuple(means), moved)

    def describe(self) -> str:
        a, b = self._letters()
        return f"{a},{b}"

    def _product(self, subscripts: str, x: Array, y: Array, dtype: Any) -> Array:
        return jnp.einsum(
            subscripts, x, y, precision=self.precision, preferred_element_type=dtype
        )

    def _output_dtype(self, a: Array, b: Array) -> Any:
        return self.preferred_element_type or jnp.result_type(a, b)

    def _axes(self, side: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Batch, free and contracted axes of an operand."""
        contracted, batch = self.dimensions[0][side], self.dimensions[1][side]
        free = (i for i in range(len(self.shapes[side])) if i not in contracted + batch)
        return batch, tuple(free), contracted

    def _free_sizes(self, side: int) -> tuple[int, ...]:
        return tuple(self.shapes[side][axis] for axis in self._axes(side)[1])

    def _canonical(self, operands: Arrays) -> Arrays:
        """The operands as (G, P, K) and (G, Q, K)."""
        return tuple(
            jnp.transpose(x, sum(axes, ())).reshape(
                *(math.prod(x.shape[axis] for axis in group) for group in axes)
            )
            for x, axes in ((x, self._axes(side)) for side, x in enumerate(operands))
        )

    def _original(self, x: Array, side: int) -> Array:
        """The inverse of `_canonical` for one operand."""
        order = sum(self._axes(side), ())
        shape = tuple(self.shapes[side][axis] for axis in order)
        return jnp.transpose(x.reshape(shape), tuple(order.index(i) for i in range(len(order))))

    def _output(self, x: Array) -> Array:
        """(G, P, Q) in the shape of the product."""
        batch = tuple(self.shapes[0][axis] for axis in self.dimensions[1][0])
        return x.reshape(*batch, *self._free_sizes(0), *self._free_sizes(1))

    def _letters(self) -> tuple[str, str]:
        names = iter("abcdefghijklmnopqrstuvwxyz")
        left = {axis: next(names) for axis in range(len(self.shapes[0]))}
        shared = {
            b: left[a]
            for side in (0, 1)
            for a, b in zip(self.dimensions[side][0], self.dimensions[side][1], strict=True)
        }
        right = [shared.get(axis) or next(names) for axis in range(len(self.shapes[1]))]
        return "".join(left.values()), "".join(right)


def _dot_general(ctx: RuleContext) -> ConstraintRule:
    contracted, batch = (
        (tuple(map(int, left)), tuple(map(int, right)))
        for left, right in ctx.params["dimension_numbers"]
    )
    dimensions = contracted, batch
    shapes = tuple(ctx.inputs[0].shape), tuple(ctx.inputs[1].shape)
    if math.prod(shapes[0][axis] for axis in dimensions[0][0]) == 0:
        raise NotImplementedError(f"a product that contracts an empty axis (shapes {shapes})")
    constraint = Bilinear(
        shapes, dimensions, ctx.params["precision"], ctx.params["preferred_element_type"]
    )
    return ConstraintRule(constraint, (0, 1))


register_projection(lax.dot_general_p, _dot_general)
