"""By how much a change of a matrix product moves its factors: the dot projections of `linear`, summed."""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from . import _arguments as arguments
from ._definition import define
from .linear import project_linear_p

Weights: TypeAlias = Sequence[float | None]


def unit(norm: Array | float, weight: float | None) -> Array | float:
    """What an operand's weight is counted in, by the mean squared length of the other; 1 without one."""
    return 1.0 if weight is None else 1 + norm


def displace_reference(
    a: Array,
    b: Array,
    change: Array,
    *,
    wanted: tuple[bool, bool],
    weights: tuple[float | None, float | None],
    **static: Any,
) -> tuple[Array, ...]:
    wide = arguments.compute_dtype(jnp.result_type(a, b, change))
    # In a / sqrt(s) and b / sqrt(r) with the units r, s of the weights these are plain numbers.
    root_b, root_a = (
        jnp.sqrt(jnp.asarray(unit(_mean_norm(x, wide), weight)))[..., None, None]
        for x, weight in ((b, weights[0]), (a, weights[1]))
    )
    plain = tuple(1.0 if weight is None else weight for weight in weights)
    _, *means, _ = project_linear_p.bind(
        a if weights[1] is None else a / root_a,
        b if weights[0] is None else b / root_b,
        change / (root_a * root_b),
        wanted=wanted,
        relative=True,
        weights=plain,
        **static,
    )
    sides = [side for side in (0, 1) if wanted[side]]
    scales = root_a * jnp.square(root_b), root_b * jnp.square(root_a)
    copies = b.shape[-2], a.shape[-2]
    return tuple(
        (plain[side] * copies[side] * scales[side]) * mean for side, mean in zip(sides, means, strict=True)
    )


def _mean_norm(x: Array, dtype: Any) -> Array:
    """The mean over rows of their squared lengths."""
    return jnp.sum(jnp.square(x.astype(dtype)), (-2, -1)) / max(x.shape[-2], 1)


def displace_small(
    a: Array,
    b: Array,
    change: Array,
    *,
    wanted: tuple[bool, bool],
    weights: tuple[float | None, float | None],
    precision: Any,
    operand_dtype: Any,
) -> tuple[Array, ...]:
    r"""The same, without the product of a and b where no change is large.

    To first order in the change r of one dot product the multiplier of its projection is
    $t = r / (1 + |a|^2/v + |b|^2/u)$, and the displacements, times their weights, are $t b$ and $t a$.
    What is left out is less than t itself beside them: nothing, up to half of the digits.
    """
    wide = arguments.compute_dtype(jnp.result_type(a, b, change))
    norm_a, norm_b = (jnp.sum(jnp.square(x.astype(wide)), -1) for x in (a, b))
    u, v = (
        jnp.asarray(unit(jnp.sum(norm, -1) / max(norm.shape[-1], 1), weight) * (weight or 1.0), wide)
        for norm, weight in zip((norm_b, norm_a), weights, strict=True)
    )
    damping = 1 + (norm_a / v[..., None])[..., :, None] + (norm_b / u[..., None])[..., None, :]
    t = change.astype(wide) / damping
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

    largest = jnp.max(jnp.max(jnp.abs(t), (-2, -1), initial=0) / jnp.sqrt(u * v), initial=0)
    return tuple(lax.cond(largest <= math.sqrt(jnp.finfo(wide).eps), first_order, exact))


displace_linear_p = define("pjax_displace_linear", displace_reference)
r"""(..., P, K), (..., Q, K), (..., P, Q) -> displacements.

For each row x of `a` and each row w of `b` the dot projection of (x, w) whose output is to change by r:

$$\arg\min_{x', w'} u\,|x' - x|^2 + v\,|w' - w|^2 + (x' \cdot w' - x \cdot w - r)^2.$$

- `weights` of a and b: u is the first times 1 + the mean squared length of the rows of b, v the second with
  those of a; None makes it 1.
- `wanted`, `precision`, `operand_dtype`: as in `project_linear_p`.

Results, of the operands wanted, in their shapes: the sum of each row's displacements over its Q (or P)
copies, times its weight."""
