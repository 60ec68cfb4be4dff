"""The dot projections of a whole matrix product, from consensus and back to it, without copies."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from . import _arguments as arguments
from ._definition import define
from .dot import degenerate_size, is_near, multiplier, near_multiplier, scaled_residual, unmet


class Query(NamedTuple):
    """Dot projections that share their vectors: row p of `a` with row q of `b`, for all p, q.

    - `product`: the dot products, (..., P, Q).
    - `norm_a`, `norm_b`: the squared norms, (..., P, 1) and (..., 1, Q).
    - `first_a`, `first_b`: the first components, shaped as the norms.
    - `target`: the queried outputs, (..., P, Q).
    """

    product: Array
    norm_a: Array
    norm_b: Array
    first_a: Array
    first_b: Array
    target: Array

    def equation(self) -> tuple[Array, Array, Array]:
        """The arguments of `dot.multiplier`."""
        half = 0.25 * (self.norm_a + self.norm_b)
        # Rounding of a low-precision product may break |2p| <= q, which the solve relies on.
        s = jnp.maximum(half + 0.5 * self.product, 0)
        d = jnp.maximum(half - 0.5 * self.product, 0)
        return s, d, self.target - self.product


class Answer(NamedTuple):
    """What the means of the projected vectors are made of.

    The displacements of a copy are $c a + e b$ and $c b + e a$.

    - `c_a`, `c_b`: the means of c over q and over p, (..., P) and (..., Q).
    - `e`: (..., P, Q).
    - `output`: as the query's `target`.
    - `step_a`, `step_b`: the mean of what is added to the first components, (..., P) and (..., Q).
    - `moved`: the squared displacement summed over all p and q, (...).
    """

    c_a: Array
    c_b: Array
    e: Array
    output: Array
    step_a: Array
    step_b: Array
    moved: Array


class Solved(NamedTuple):
    """The displacements of single copies, (..., P, Q) each.

    They are $c a + e b$ and $c b + e a$, `step_a` and `step_b` in the first components besides, and
    `moved` their squared length. No copy has both, c and a step, and neither is below zero: `along` is c, or
    minus the step. What XLA's CPU backend has to store is one array less, and its sums are a library's.
    """

    e: Array
    output: Array
    along: Array
    moved: Array

    @property
    def c(self) -> Array:
        return jnp.maximum(self.along, 0)

    @property
    def step_a(self) -> Array:
        return jnp.maximum(-self.along, 0)

    @property
    def step_b(self) -> Array:
        return self.step_a * (2 * self.e)  # where there is a step, e is 1/2 or -1/2


def solve(query: Query) -> Solved:
    """Solves for any query."""
    return _solved(query, multiplier(*query.equation())[0])


def solve_near(query: Query, scaled: Array) -> Solved:
    """A query whose targets are all near (`dot.is_near`): a third of the operations.

    **Arguments:** `scaled`, of `dot.scaled_residual`.
    """
    s, d, residual = query.equation()
    t = near_multiplier(s, d, residual, scaled)
    e = t / (1 - t * t)
    c = t * e
    return Solved(e, query.target - t, c, _moved(s, d, c, e))


def _solved(query: Query, u: Array) -> Solved:
    """What follows from the first result of `dot.multiplier`; `dot.coefficients` has the formulas.

    They share no quotient: what two results read would be an array, and a loop, of its own.
    """
    s, d, residual = query.equation()
    size, negative = jnp.abs(u), u < 0
    degenerate = size >= degenerate_size(u.dtype)
    c = jnp.where(degenerate, 0, size * (size / (1 + 2 * size)))
    e = jnp.where(degenerate, jnp.where(negative, -0.5, 0.5), u * ((1 + size) / (1 + 2 * size)))
    output = query.target - u / (1 + size)
    step_a = jnp.where(degenerate, jnp.sqrt(jnp.maximum(unmet(residual, jnp.where(negative, s, d)), 0)), 0)
    step_b = jnp.where(negative, -step_a, step_a)

    def along(first: Array, first_other: Array, step: Array) -> Array:
        return step * (2 * (c * first + e * first_other) + step)

    stepped = along(query.first_a, query.first_b, step_a) + along(query.first_b, query.first_a, step_b)
    return Solved(e, output, jnp.where(degenerate, -step_a, c), _moved(s, d, c, e) + stepped)


def answer(query: Query) -> Answer:
    """The solution of any query."""
    return _answer(solve(query))


def unsolved(query: Query) -> Answer:
    """What has the types of an answer, for abstract evaluation."""
    size = query.norm_a + query.norm_b + query.first_a + query.first_b
    each = query.product + query.target + size
    rows, columns = mean(each, -1), mean(each, -2)
    return Answer(rows, columns, each, each, rows, columns, jnp.sum(each, (-2, -1)))


def _answer(found: Solved) -> Answer:
    return Answer(
        mean(found.c, -1),
        mean(found.c, -2),
        found.e,
        found.output,
        mean(found.step_a, -1),
        mean(found.step_b, -2),
        jnp.sum(found.moved, (-2, -1)),
    )


def _moved(s: Array, d: Array, c: Array, e: Array) -> Array:
    """The squared displacements: a + b moves by (c + e)(a + b), a - b by (c - e)(a - b)."""
    return 2 * (s * jnp.square(c + e) + d * jnp.square(c - e))


def answer_blockwise(query: Query, block_size: int) -> Answer:
    """The same in blocks of at most so many elements, so that intermediate arrays are small.

    A block whose targets are all near (`dot.is_near`) costs a third of the operations. Over
    several devices that choice would cost a collective, so lowerings use it only on one.
    """
    shape = query.product.shape
    axis = next((i for i, size in enumerate(shape[:-1]) if size > 1), len(shape) - 2)
    count = block_count(shape[axis], math.prod(shape), block_size)
    if count == 1:
        return _answer_block(query)
    length = shape[axis] // count

    def block(index: Array, found: Answer) -> Answer:
        start = index * length

        def part(x: Array) -> Array:
            return x if x.shape[axis] == 1 else lax.dynamic_slice_in_dim(x, start, length, axis)

        def put(whole: Array, new: Array) -> Array:
            return lax.dynamic_update_slice_in_dim(whole, new, start, axis)

        new = _answer_block(
            Query(
                part(found.e),
                part(query.norm_a),
                part(query.norm_b),
                part(query.first_a),
                part(query.first_b),
                part(found.output),
            )
        )
        if axis < len(shape) - 2:
            return Answer(*map(put, found, new))
        # Blocks of rows, over which these are means and a sum.
        return Answer(
            put(found.c_a, new.c_a),
            found.c_b + new.c_b / count,
            put(found.e, new.e),
            put(found.output, new.output),
            put(found.step_a, new.step_a),
            found.step_b + new.step_b / count,
            found.moved + new.moved,
        )

    product, target = query.product, jnp.broadcast_to(query.target, shape)
    rows, columns = jnp.zeros_like(product[..., 0]), jnp.zeros_like(product[..., 0, :])
    # Results take the place of what they are made of, so that no memory is filled to be overwritten.
    start = Answer(rows, columns, product, target, rows, columns, jnp.zeros_like(product[..., 0, 0]))
    return lax.fori_loop(0, count, block, start)


def _answer_block(query: Query) -> Answer:
    """The scalar equation is solved in one of two ways; what follows from its root is one program."""
    scaled = lax.optimization_barrier(scaled_residual(*query.equation()))

    def near(query: Query) -> Array:
        t = near_multiplier(*query.equation(), scaled)
        return t / (1 - jnp.abs(t))

    u = lax.cond(is_near(scaled), near, lambda query: multiplier(*query.equation())[0], query)
    return _answer(_solved(query, u))


def answer_weighted(
    query: Query, weights: Sequence[Array], answer: Callable[[Query], Answer]
) -> tuple[Answer, float | Array]:
    """The answer for the distance u |a' - a|^2 + v |b' - b|^2 + (a' . b' - z)^2.

    In a/sqrt(v), b/sqrt(u) and z/sqrt(u v) it is the unweighted one times u v.

    **Arguments:** `weights`, none or (u, v), (..., 1, 1).

    **Returns:** the answer and a ratio r: the displacements are $c a + r e b$ and $c b + e a / r$.
    """
    if not weights:
        return answer(query), 1.0
    u, v = weights
    x, y = 1 / jnp.sqrt(v), 1 / jnp.sqrt(u)
    found = answer(
        Query(
            query.product * (x * y),
            query.norm_a * x**2,
            query.norm_b * y**2,
            query.first_a * x,
            query.first_b * y,
            query.target * (x * y),
        )
    )
    unscaled = found._replace(
        output=found.output / (x * y),
        step_a=found.step_a / x[..., 0],
        step_b=found.step_b / y[..., 0],
        moved=found.moved * (u * v)[..., 0, 0],
    )
    return unscaled, y / x


def block_count(length: int, size: int, block: int) -> int:
    """The fewest equal parts of an axis with at most `block` elements each, or 1."""
    counts = range(max(-(-size // block), 1), length + 1)
    return next((count for count in counts if length % count == 0), 1)


Product = Callable[[str, Array, Array], Array]
Moves = Callable[[Array, tuple[bool, bool]], tuple[Array | None, Array | None]]
Layout = Callable[[Product, Array, Array], tuple[Array, Moves]]


def together(product: Product, a: Array, b: Array) -> tuple[Array, Moves]:
    """The matrix products of a projection, for operands that lie anywhere.

    **Arguments:** `product(subscripts, x, y)`, as `jnp.einsum`.

    **Returns:** all dot products; and for `e` of an answer and what is wanted the products of `e` with `b`
    and of its transpose with `a`.
    """

    def moves(e: Array, wanted: tuple[bool, bool]) -> tuple[Array | None, Array | None]:
        of_a = product("...pq,...qk->...pk", e, b) if wanted[0] else None
        return of_a, product("...pq,...pk->...qk", e, a) if wanted[1] else None

    return product("...pk,...qk->...pq", a, b), moves


def first_of(x: Array) -> Array:
    """The first components, with their axis."""
    return x[..., :1]


def summed_first_of(x: Array) -> Array:
    """The same where components are divided over devices: XLA would send a whole part for a slice of it."""
    place = lax.broadcasted_iota(jnp.int32, x.shape[-1:], 0)
    return jnp.sum(jnp.where(place == 0, x, 0), -1, keepdims=True)


def reference(
    a: Array,
    b: Array,
    target: Array,
    *weights: Array,
    wanted: tuple[bool, bool],
    precision: Any,
    operand_dtype: Any,
    scatter: Literal["formed", "sums"] | None = None,
    layout: Layout | None = None,
    answer: Callable[[Query], Answer] = answer,
) -> tuple[Array, ...]:
    wide = arguments.compute_dtype(jnp.result_type(a, b, target))

    def product(subscripts: str, x: Array, y: Array) -> Array:
        x, y = (array.astype(operand_dtype) for array in (x, y))
        return jnp.einsum(subscripts, x, y, precision=precision, preferred_element_type=wide)

    p, along_e = (layout or together)(product, a, b)
    first = first_of if layout is None else summed_first_of
    a, b, target = a.astype(wide), b.astype(wide), target.astype(wide)
    query = Query(
        p,
        jnp.sum(jnp.square(a), -1)[..., :, None],
        jnp.sum(jnp.square(b), -1)[..., None, :],
        first(a),
        jnp.swapaxes(first(b), -1, -2),
        target,
    )
    weights = tuple(x.astype(wide)[..., None, None] for x in weights)
    found, ratio = answer_weighted(query, weights, answer)
    results = [found.output]
    across_a, across_b = along_e(found.e, wanted)
    if across_a is not None:
        along = a * found.c_a[..., None]
        across = across_a * (ratio / max(b.shape[-2], 1))
        results.append(along + across + arguments.on_first(found.step_a, a))
    if across_b is not None:
        along = b * found.c_b[..., None]
        across = across_b / (ratio * max(a.shape[-2], 1))
        results.append(along + across + arguments.on_first(found.step_b, b))
    if not scatter:
        return (*results, found.moved)
    moves = iter(results[1:])
    mean_a, mean_b = (next(moves) if want else None for want in wanted)
    u, v = (x[..., 0, 0] for x in weights) if weights else (1.0, 1.0)
    sides = [_Side(u, a, b, found.e, mean_a, ratio), _Side(v, b, a, _turn(found.e), mean_b, 1 / ratio)]
    if scatter == "formed" and math.prod(p.shape[-2:]) * a.shape[-1] <= _FEW:
        formed = sum((side.weight * side.formed() for side in sides), jnp.zeros_like(found.moved))
        # In the degenerate case copies move by steps too: by what the rest does not tell.
        stepped = jnp.sum(found.step_a, -1) > 0  # none is below zero
        apart = jnp.where(stepped, jnp.maximum(_left(found.moved, sides), 0), formed)
    elif all(side.is_mean for side in sides):
        apart = jnp.zeros_like(found.moved)
    else:
        unresolved = 2 * jnp.finfo(wide).eps * found.moved
        apart = jnp.maximum(_left(found.moved, sides), unresolved)
    return (*results, found.moved, apart)


def _turn(x: Array) -> Array:
    return jnp.swapaxes(x, -1, -2)


class _Side(NamedTuple):
    """One operand: its copies moved by c rows + ratio e others, their mean by `mean`; None for a constant."""

    weight: float | Array
    rows: Array
    others: Array
    e: Array
    mean: Array | None
    ratio: float | Array

    @property
    def is_mean(self) -> bool:
        """Whether its only copy is the mean."""
        return self.mean is not None and self.e.shape[-1] <= 1

    def formed(self) -> Array:
        """The squared distance of all copies from their mean, or of a constant's from it, by differences."""
        if self.is_mean:
            return jnp.zeros(self.e.shape[:-2], self.e.dtype)
        size = jnp.abs(self.e)
        c = 2 * size * (size / (1 + jnp.sqrt(1 + 4 * size * size)))  # t e, where e = t / (1 - t^2)
        across = (self.ratio * self.e)[..., None] * self.others[..., None, :, :]
        moves = c[..., None] * self.rows[..., :, None, :] + across
        differences = moves if self.mean is None else moves - self.mean[..., :, None, :]
        return jnp.sum(jnp.square(differences), (-3, -2, -1))


def _left(moved: Array, sides: Sequence[_Side]) -> Array:
    """What copies moved less what their means did; a constant's copies have none."""
    for side in sides:
        if side.mean is not None:
            moved = moved - side.weight * side.e.shape[-1] * jnp.sum(jnp.square(side.mean), (-2, -1))
    return moved


_FEW = 2**16
"""Up to so many numbers in copies, they are formed for their distance from their mean."""


def mean(x: Array, axis: int) -> Array:
    """The mean, zero along an empty axis: what has no copies does not move."""
    return jnp.sum(x, axis) / max(x.shape[axis], 1)


project_linear_p = define(
    "pjax_project_linear", reference, types=partial(reference, answer=unsolved), version=2
)
r"""(..., P, K), (..., Q, K), (..., P, Q) -> output, displacements, squared displacement.

For each row x of `a` and each row w of `b` the dot projection of (x, w) with the queried output
z from `target`; then the mean of each row's displacements over its Q (or P) copies:

$$\arg\min_{x', w'} |x' - x|^2 + |w' - w|^2 + (x' \cdot w' - z)^2.$$

With $p = ab^T$ and the squared norms, the displacement of the copies is $\Delta x = c\,x + e\,w$,
$\Delta w = c\,w + e\,x$ with matrices $c$, $e$ of the output's shape (`dot.displacement`), so the
means move by $a\,\bar c + e b / Q$ and $b\,\bar c + e^T a / P$: three matrix products and memory of
the output, where the copies would be 2 P Q K numbers.

With two more operands, numbers u and v (...), the distance is u |x' - x|^2 + v |w' - w|^2 + (x' . w' - z)^2;
so is the squared displacement weighted.

- `wanted`: whether the mean displacement of `a`, of `b` is a result. What is not wanted is not computed.
- `scatter`: there is one more result, (...): the squared distance of
  the projected copies from their means (of what is not wanted, a constant, from where it was). "formed"
  forms the differences of few copies; "sums" does not: divided over devices, copies would be moved. Where
  sums cannot resolve the distance it is what they can.
- `layout`: what forms the products in place of `together`, where operands are divided over devices along K.

Results: the new output (..., P, Q); the displacements wanted, in the shapes of `a` and `b`; the squared
displacement summed over all copies of both, (...).
"""
