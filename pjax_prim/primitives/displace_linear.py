"""By how much a change of a matrix product moves its factors: the dot projections of `linear`, summed."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from . import _arguments as arguments
from ._definition import define
from .linear import project_linear_p

Weights: TypeAlias = tuple[float | None, float | None]


def unit(norm: Array | float, weight: float | None) -> Array | float:
    """What an operand's weight is counted in, by the mean squared length of the other; 1 without one."""
    return 1.0 if weight is None else 1 + norm


def absolute(norm: Array, weight: float | None) -> Array | float:
    """An operand's weight in the distance."""
    return unit(norm, weight) * (1.0 if weight is None else weight)


def displace_reference(
    a: Array,
    b: Array,
    change: Array,
    *,
    wanted: tuple[bool, bool],
    weights: Weights,
    **static: Any,
) -> tuple[Array, ...]:
    wide = arguments.compute_dtype(jnp.result_type(a, b, change))
    norms = _mean_norm(a, wide)[..., None, None], _mean_norm(b, wide)[..., None, None]
    copies = b.shape[-2], a.shape[-2]
    project = partial(project_linear_p.bind, **static)
    return summed_displacements(project, (a, b), change, norms, copies, wanted, weights)


def summed_displacements(
    project: Callable[..., tuple[Array, ...]],
    operands: tuple[Array, Array],
    change: Array,
    norms: tuple[Array, Array],
    copies: tuple[Any, Any],
    wanted: tuple[bool, bool],
    weights: Weights,
) -> tuple[Array, ...]:
    """For each operand wanted the sum of the displacements of its copies, times its weight.

    **Arguments:** `project`, as `project_linear_p` or `project_convolution_p`, gives their means; `norms`,
    the mean squared lengths of what is multiplied; `copies`, how many the elements of each operand have.
    """
    # In a / sqrt(s) and b / sqrt(r) with the units r, s of the weights these are plain numbers.
    others = weights[1], weights[0]
    root_a, root_b = (
        jnp.sqrt(jnp.asarray(unit(norm, weight))) for norm, weight in zip(norms, others, strict=True)
    )
    plain = tuple(1.0 if weight is None else weight for weight in weights)
    scaled = (
        x if weight is None else x / root
        for x, root, weight in zip(operands, (root_a, root_b), others, strict=True)
    )
    _, *means, _ = project(*scaled, change / (root_a * root_b), wanted=wanted, relative=True, weights=plain)
    sides = [side for side in (0, 1) if wanted[side]]
    scales = root_a * jnp.square(root_b), root_b * jnp.square(root_a)
    return tuple(
        jnp.asarray(plain[side] * copies[side], mean.dtype) * scales[side] * mean
        for side, mean in zip(sides, means, strict=True)
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
    weights: Weights,
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
        jnp.asarray(absolute(jnp.sum(norm, -1) / max(norm.shape[-1], 1), weight), wide)
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
