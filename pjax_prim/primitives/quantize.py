"""Rounding to equally spaced levels, and the projection onto its graph."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..errors import ArgumentError
from . import _arguments as arguments
from ._definition import define


def _static(levels: int, scale: float) -> dict[str, int | float]:
    if isinstance(levels, bool) or not hasattr(levels, "__index__") or levels < 2:
        raise ArgumentError(f"levels: expected an integer of at least 2, given {levels!r}")
    arguments.positive(scale=scale)
    return {"levels": int(levels), "scale": float(scale)}


def _project_reference(a: Array, z: Array, *, levels: int, scale: float) -> tuple[Array]:
    r"""In units of the spacing, with level j at j: let u be the input and w the output queried,
    i the level of u. Level $j > i$ costs $(j - 1/2 - u)^2 + (j - w)^2$, a parabola whose best
    integer is the one nearest to $(u + w)/2 + 1/4$; likewise below. So three levels are
    compared, however many there are.
    """
    dtype = a.dtype
    a, z = arguments.widen(a, z)
    spacing = 2 * scale / (levels - 1)
    half = (levels - 1) / 2
    u = a / spacing + half
    w = z / spacing + half
    i = jnp.clip(jnp.round(u), 0, levels - 1)
    side = jnp.where(w > i, 1, -1).astype(a.dtype)
    j = jnp.round(0.5 * u + 0.5 * w + 0.25 * side)
    j = jnp.clip(j, jnp.where(side > 0, i + 1, 0), jnp.where(side > 0, levels - 1, i - 1))
    edge = j - 0.5 * side
    saving = (j - i) * ((w - i) + (w - j))  # of the output's cost (i - w)^2 - (j - w)^2
    move = (jnp.abs(edge - u) < jnp.sqrt(jnp.maximum(saving, 0))) & (j >= 0) & (j < levels)
    return (jnp.where(move, (edge - half) * spacing, a).astype(dtype),)


project_quantize_p = define("pjax_project_quantize", _project_reference)


def project_quantize(
    a: Float[Array, "..."], z: Float[Array, "..."], levels: int = 2, scale: float = 1.0
) -> Float[Array, "..."]:
    r"""The input of the nearest point of the graph of `quantize`, elementwise:

    $$\arg\min_{a'} \min_j\ (a' - a)^2 + (q_j - z)^2 \quad\text{with } a' \in I_j,$$

    where $q_j$ are the levels and $I_j$ the closed interval of inputs that round to $q_j$.

    **Arguments:**

    - `a`, `z`: input and queried output, of one shape.
    - `levels`: how many levels there are, at least 2; static.
    - `scale`: the largest level, above zero; the smallest is `-scale`; static.

    **Returns:** `a`, or the nearest edge of the interval of a level closer to `z`. Unique but
    where two levels cost the same.

    **Errors:** `ArgumentError` for shapes, dtypes or settings other than these.

    **Cost:** one pass, whatever the number of levels.
    """
    static = _static(levels, scale)
    a, z = arguments.floating(a=a, z=z)
    arguments.same_shape(a=a, z=z)
    (moved,) = project_quantize_p.bind(a, z, **static)
    return moved


def _reference(x: Array, *, levels: int, scale: float) -> tuple[Array]:
    dtype = x.dtype
    (x,) = arguments.widen(x)
    spacing = 2 * scale / (levels - 1)
    half = (levels - 1) / 2
    level = jnp.clip(jnp.round(x / spacing + half), 0, levels - 1)
    return (((level - half) * spacing).astype(dtype),)


quantize_p = define("pjax_quantize", _reference, differentiable=True)


def quantize(x: Float[Array, "..."], levels: int = 2, scale: float = 1.0) -> Float[Array, "..."]:
    """`x` rounded to the nearest of equally spaced levels from `-scale` to `scale`.

    **Arguments:**

    - `x`: any shape.
    - `levels`: how many levels there are, at least 2; 2 is the sign function.
    - `scale`: the largest level, above zero.

    **Returns:** an array like `x`. Its derivative is zero.

    **Errors:** `ArgumentError` for dtypes or settings other than these.
    """
    static = _static(levels, scale)
    (x,) = arguments.floating(x=x)
    (result,) = quantize_p.bind(x, **static)
    return result
