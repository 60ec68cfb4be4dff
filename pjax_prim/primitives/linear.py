"""The dot projections of a whole matrix product, from consensus and back to it, without copies."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from . import _arguments as arguments
from ._definition import define
from .dot import displacement, is_near, near_displacement


class Query(NamedTuple):
    """Dot projections that share their vectors: row p of `a` with row q of `b`, for all p, q.

    - `product`: the dot products, (..., P, Q).
    - `norm_a`, `norm_b`: the squared norms, (..., P, 1) and (..., 1, Q).
    - `first_a`, `first_b`: the first components, shaped as the norms.
    - `target`: the queried outputs (..., P, Q), or with `relative` their distance from the products.
    """

    product: Array
    norm_a: Array
    norm_b: Array
    first_a: Array
    first_b: Array
    target: Array
    relative: bool

    def equation(self) -> tuple[Array, Array, Array, Array]:
        """The arguments of `dot.displacement`."""
        half = 0.25 * (self.norm_a + self.norm_b)
        # Rounding of a low-precision product may break |2p| <= q, which the solve relies on.
        s = jnp.maximum(half + 0.5 * self.product, 0)
        d = jnp.maximum(half - 0.5 * self.product, 0)
        residual = self.target if self.relative else self.target - self.product
        return s, d, residual, self.target


class Answer(NamedTuple):
    """What the means of the projected vectors are made of.

    - `c`, `e`: the displacements are $c a + e b$ and $c b + e a$.
    - `output`: as the query's `target`.
    - `step_a`, `step_b`: the mean of what is added to the first components, (..., P) and (..., Q).
    - `moved`: the squared displacement summed over all p and q, (...).
    """

    c: Array
    e: Array
    output: Array
    step_a: Array
    step_b: Array
    moved: Array


def solve(query: Query) -> Answer:
    """Any query."""
    c, e, step_a, step_b, output = displacement(*query.equation())

    def along(first: Array, first_other: Array, step: Array) -> Array:
        return step * (2 * (c * first + e * first_other) + step)

    stepped = along(query.first_a, query.first_b, step_a) + along(query.first_b, query.first_a, step_b)
    moved = jnp.sum(_moved(query, c, e) + stepped, (-2, -1))
    return Answer(c, e, output, _mean(step_a, -1), _mean(step_b, -2), moved)


def solve_near(query: Query) -> Answer:
    """A query whose targets are all near (`dot.is_near`): a third of the operations."""
    c, e, output = near_displacement(*query.equation())
    none_a, none_b = jnp.zeros_like(c[..., 0]), jnp.zeros_like(c[..., 0, :])
    # XLA's CPU backend takes 5 times as long to sum what it has not stored.
    moved = jnp.sum(jax.lax.optimization_barrier(_moved(query, c, e)), (-2, -1))
    return Answer(c, e, output, none_a, none_b, moved)


def _moved(query: Query, c: Array, e: Array) -> Array:
    """The squared displacements: a + b moves by (c + e)(a + b), a - b by (c - e)(a - b)."""
    s, d, *_ = query.equation()
    return 2 * (s * jnp.square(c + e) + d * jnp.square(c - e))


def solve_branching(query: Query) -> Answer:
    """Any query, at the price of the near ones where all are near.

    The choice is made once for all targets. Where these are spread over devices it would
    cost a collective, so lowerings use it only on one device.
    """
    s, d, residual, _ = query.equation()
    return jax.lax.cond(
        jnp.all(is_near(s, d, residual)), lambda: solve_near(query), lambda: _solve_in_blocks(query)
    )


def _solve_in_blocks(query: Query) -> Answer:
    """`solve` block after block, so that its many intermediate arrays are small."""
    shape = query.product.shape
    axis = next((i for i, size in enumerate(shape[:-1]) if size > 1), len(shape) - 2)
    count = _block_count(shape[axis], math.prod(shape))
    if count == 1:
        return solve(query)
    arrays: tuple[Array, ...] = query[:-1]
    whole = [x.shape[axis] == 1 for x in arrays]

    def split(x: Array) -> Array:
        return jnp.moveaxis(x.reshape(*x.shape[:axis], count, -1, *x.shape[axis + 1 :]), axis, 0)

    def join(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, axis)
        return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])

    def block(parts: list[Array]) -> Answer:
        rest = iter(parts)
        chosen = [x if keep else next(rest) for x, keep in zip(arrays, whole, strict=True)]
        product, norm_a, norm_b, first_a, first_b, target = chosen
        return solve(Query(product, norm_a, norm_b, first_a, first_b, target, query.relative))

    answer = jax.lax.map(block, [split(x) for x, keep in zip(arrays, whole, strict=True) if not keep])
    if axis == len(shape) - 2:  # blocks of rows, which `step_b` and `moved` reduce over
        c, e, output, step_a = map(join, answer[:4])
        return Answer(c, e, output, step_a, jnp.mean(answer.step_b, 0), jnp.sum(answer.moved, 0))
    return Answer(*map(join, answer))


_BLOCK = 2**17
"""Elements of a block."""


def _block_count(length: int, size: int) -> int:
    """The fewest equal parts of an axis with at most `_BLOCK` elements each, or 1."""
    counts = range(-(-size // _BLOCK), length + 1)
    return next((count for count in counts if length % count == 0), 1)


def reference(
    a: Array,
    b: Array,
    target: Array,
    *,
    wanted: tuple[bool, bool],
    relative: bool,
    precision: Any,
    operand_dtype: Any,
    solve: Any = solve,
) -> tuple[Array, ...]:
    wide = arguments.compute_dtype(jnp.result_type(a, b, target))

    def product(subscripts: str, x: Array, y: Array) -> Array:
        x, y = (array.astype(operand_dtype) for array in (x, y))
        return jnp.einsum(subscripts, x, y, precision=precision, preferred_element_type=wide)

    p = product("...pk,...qk->...pq", a, b)
    a, b, target = a.astype(wide), b.astype(wide), target.astype(wide)
    answer = solve(
        Query(
            p,
            jnp.sum(jnp.square(a), -1)[..., :, None],
            jnp.sum(jnp.square(b), -1)[..., None, :],
            a[..., :1],
            jnp.swapaxes(b[..., :1], -1, -2),
            target,
            relative,
        )
    )
    results = [answer.output]
    if wanted[0]:
        along = a * _mean(answer.c, -1)[..., None]
        across = product("...pq,...qk->...pk", answer.e, b) / max(b.shape[-2], 1)
        results.append(along + across + _first(answer.step_a, a))
    if wanted[1]:
        along = b * _mean(answer.c, -2)[..., None]
        across = product("...pq,...pk->...qk", answer.e, a) / max(a.shape[-2], 1)
        results.append(along + across + _first(answer.step_b, b))
    return (*results, answer.moved)


def _mean(x: Array, axis: int) -> Array:
    """The mean, zero along an empty axis: what has no copies does not move."""
    return jnp.sum(x, axis) / max(x.shape[axis], 1)


def _first(step: Array, like: Array) -> Array:
    """`step` in the first component, zero in the others."""
    components = jax.lax.broadcasted_iota(jnp.int32, (1,) * (like.ndim - 1) + like.shape[-1:], like.ndim - 1)
    return jnp.where(components == 0, step[..., None], 0)


project_linear_p = define("pjax_project_linear", reference)
r"""(..., P, K), (..., Q, K), (..., P, Q) -> output, displacements, squared displacement.

For each row x of `a` and each row w of `b` the dot projection of (x, w) with the queried output
z from `target`; then the mean of each row's displacements over its Q (or P) copies:

$$\arg\min_{x', w'} |x' - x|^2 + |w' - w|^2 + (x' \cdot w' - z)^2.$$

With $p = ab^T$ and the squared norms, the displacement of the copies is $\Delta x = c\,x + e\,w$,
$\Delta w = c\,w + e\,x$ with matrices $c$, $e$ of the output's shape (`dot.displacement`), so the
means move by $a\,\bar c + e b / Q$ and $b\,\bar c + e^T a / P$: three matrix products and memory of
the output, where the copies would be 2 P Q K numbers.

- `wanted`: whether the mean displacement of `a`, of `b` is a result. What is not wanted is not computed.
- `relative`: `target` holds displacements z - p instead of values; then so does the output. No digit
  of a displacement is lost, however small it is beside the operands.
- `precision` of the products, `operand_dtype` they take; they accumulate in float32 or wider.

Results: the new output (..., P, Q); the displacements wanted, in the shapes of `a` and `b`; the squared
displacement summed over all copies of both, (...).
"""
