"""By how much a change of a matrix product moves its factors: the dot projections of `linear`, summed."""

import math
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from . import _arguments as arguments
from ._definition import define
from .linear import project_linear_p


def displace_reference(
    a: Array,
    b: Array,
    change: Array,
    *,
    wanted: tuple[bool, bool],
    weights: tuple[float, float],
    **static: Any,
) -> tuple[Array, ...]:
    _, *means, _ = project_linear_p.bind(
        a, b, change, wanted=wanted, relative=True, weights=weights, **static
    )
    sides = [side for side in (0, 1) if wanted[side]]
    copies = b.shape[-2], a.shape[-2]
    return tuple(weights[side] * copies[side] * mean for side, mean in zip(sides, means, strict=True))


def displace_small(
    a: Array,
    b: Array,
    change: Array,
    *,
    wanted: tuple[bool, bool],
    weights: tuple[float, float],
    precision: Any,
    operand_dtype: Any,
) -> tuple[Array, ...]:
    r"""The same, without the product of a and b where no change is large.

    To first order in the change r of one dot product the multiplier of its projection is
    $t = r / (1 + |a|^2/v + |b|^2/u)$, and the displacements, times their weights, are $t b$ and $t a$.
    What is left out is less than t itself beside them: nothing, up to half of the digits.
    """
    wide = arguments.compute_dtype(jnp.result_type(a, b, change))
    u, v = weights
    norm_a, norm_b = (jnp.sum(jnp.square(x.astype(wide)), -1) for x in (a, b))
    t = change.astype(wide) / (1 + norm_a[..., :, None] / v + norm_b[..., None, :] / u)
    # Displacements may be too small for float16.
    narrow = wide if operand_dtype == jnp.float16 else operand_dtype

    def product(subscripts: str, x: Array) -> Array:
        return jnp.einsum(
            subscripts, t.astype(narrow), x.astype(narrow), precision=precision, preferred_element_type=wide
        )

    def first_order() -> tuple[Array, ...]:
        moves = (lambda: product("...pq,...qk->...pk", b)), (lambda: product("...pq,...pk->...qk", a))
        return tuple(move() for move, want in zip(moves, wanted, strict=True) if want)

    def exact() -> tuple[Array, ...]:
        return displace_reference(
            a, b, change, wanted=wanted, weights=weights, precision=precision, operand_dtype=operand_dtype
        )

    largest = jnp.max(jnp.abs(t), initial=0) / math.sqrt(u * v)
    return tuple(lax.cond(largest <= math.sqrt(jnp.finfo(wide).eps), first_order, exact))


displace_linear_p = define("pjax_displace_linear", displace_reference)
r"""(..., P, K), (..., Q, K), (..., P, Q) -> displacements.

For each row x of `a` and each row w of `b` the dot projection of (x, w) whose output is to change by r:

$$\arg\min_{x', w'} u\,|x' - x|^2 + v\,|w' - w|^2 + (x' \cdot w' - x \cdot w - r)^2.$$

- `weights`: (u, v). `wanted`, `precision`, `operand_dtype`: as in `project_linear_p`.

Results, of the operands wanted, in their shapes: the sum of each row's displacements over its Q (or P)
copies, times its weight."""
