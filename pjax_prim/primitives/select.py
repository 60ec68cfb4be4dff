"""The choice between two values by a comparison, and the projection onto its graph."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..errors import ArgumentError
from . import _arguments as arguments
from ._definition import define

COMPARISONS = {
    "gt": jnp.greater, "ge": jnp.greater_equal, "lt": jnp.less, "le": jnp.less_equal
}  # fmt: skip


def _project_reference(
    x: Array,
    y: Array,
    a: Array,
    b: Array,
    z: Array,
    *,
    compare: str,
    moves: tuple[bool, ...],
    output: bool,
) -> tuple[Array, ...]:
    """For either choice its operand goes half-way to z and a comparison that is wrong becomes a tie.

    Operands that may not move leave the whole way to the others.
    """
    dtypes = [array.dtype for array in (x, y, a, b)]
    x, y, a, b, z = arguments.widen(x, y, a, b, z)
    excess = x - y if compare in ("gt", "ge") else y - x
    # In units in which no square overflows.
    unit = jnp.maximum(1, jnp.maximum(jnp.abs(x), jnp.abs(y)))
    for array in (a, b, z):
        unit = jnp.maximum(unit, jnp.abs(array))
    sides = moves[0] + moves[1]

    def cost(value: Array, movable: bool, wrong: Array) -> Array:
        left = jnp.square(value / unit - z / unit) * (0.5 if movable else 1)
        return left + jnp.square(wrong / unit) / sides

    first = cost(a, moves[2], jnp.maximum(-excess, 0))
    second = cost(b, moves[3], jnp.maximum(excess, 0))
    take = (first < second) | ((first == second) & (excess >= 0))
    tie = jnp.where(take, excess < 0, excess > 0)
    middle = 0.5 * x + 0.5 * y if sides == 2 else (y if moves[0] else x)
    moved = (
        jnp.where(tie, middle, x),
        jnp.where(tie, middle, y),
        jnp.where(take, 0.5 * a + 0.5 * z, a) if moves[2] else a,
        jnp.where(take, b, 0.5 * b + 0.5 * z) if moves[3] else b,
    )
    kept = tuple(value.astype(dtype) for value, dtype in zip(moved, dtypes, strict=True))
    return (*kept, jnp.where(take, moved[2], moved[3]).astype(dtypes[2])) if output else kept


project_select_p = define("pjax_project_select", _project_reference)
"""(x, y, a, b, z) -> x, y, a, b, and with `output` their output, which a tie leaves open. `moves` says
which of the first four may move; of x and y at least one does."""


def project_select(
    x: Float[Array, "..."],
    y: Float[Array, "..."],
    a: Float[Array, "..."],
    b: Float[Array, "..."],
    z: Float[Array, "..."],
) -> tuple[Float[Array, "..."], ...]:
    r"""The inputs of the nearest point of the closure of
    $\{(x, y, a, b, z) : z = a \text{ if } x > y \text{ else } b\}$, elementwise:

    $$\arg\min \min_{x' \ge y',\ z' = a' \text{ or } x' \le y',\ z' = b'}
    |(x', y', a', b', z') - (x, y, a, b, z)|^2.$$

    **Arguments:** arrays of one shape; `z` is the queried output.

    **Returns:** the projected `(x, y, a, b)`. It is unique except where both choices cost the same; then the
    one that holds is taken.

    **Errors:** `ArgumentError` for shapes or dtypes other than these.

    **Cost:** one pass over the arrays.
    """
    x, y, a, b, z = arguments.floating(x=x, y=y, a=a, b=b, z=z)
    arguments.same_shape(x=x, y=y, a=a, b=b, z=z)
    return project_select_p.bind(x, y, a, b, z, compare="gt", moves=(True,) * 4, output=False)


def _reference(x: Array, y: Array, a: Array, b: Array, *, compare: str) -> tuple[Array]:
    if compare not in COMPARISONS:
        raise ArgumentError(f"compare: expected one of {', '.join(COMPARISONS)}, given {compare!r}")
    return (jnp.where(COMPARISONS[compare](x, y), a, b),)


select_p = define("pjax_select", _reference, differentiable=True)
"""(x, y, a, b) -> a where x compares to y as `compare` says, else b."""
