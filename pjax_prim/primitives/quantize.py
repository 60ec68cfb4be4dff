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


def _moved_to_level(u: Array, w: Array, i: Array, low: float, high: float) -> tuple[Array, Array]:
    r"""Whether to leave level i for a nearer one, and the edge of that one.

    The unit is the spacing, with level j at j between `low` and `high`: let u be the input and w the
    output queried, i the level of u. Level $j > i$ costs $(j - 1/2 - u)^2 + (j - w)^2$, a parabola
    whose best integer is the one nearest to $(u + w)/2 + 1/4$; likewise below. So three levels are
    compared, however many there are.
    """
    side = jnp.where(w > i, 1, -1).astype(u.dtype)
    j = jnp.round(0.5 * u + 0.5 * w + 0.25 * side)
    j = jnp.clip(j, jnp.where(side > 0, i + 1, low), jnp.where(side > 0, high, i - 1))
    edge = j - 0.5 * side
    saving = (j - i) * ((w - i) + (w - j))  # of the output's cost (i - w)^2 - (j - w)^2
    move = (jnp.abs(edge - u) < jnp.sqrt(jnp.maximum(saving, 0))) & (j >= low) & (j <= high)
    return move, edge


def _project_reference(a: Array, z: Array, *, levels: int, scale: float) -> tuple[Array]:
    dtype = a.dtype
    a, z = arguments.widen(a, z)
    spacing = 2 * scale / (levels - 1)
    half = (levels - 1) / 2
    u = a / spacing + half
    i = jnp.clip(jnp.round(u), 0, levels - 1)
    move, edge = _moved_to_level(u, z / spacing + half, i, 0, levels - 1)
    new = jnp.where(move, (edge - half) * spacing, a)
    return (arguments.missing_where(new, z).astype(dtype),)


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


_OFFSETS = {"round": 0.0, "floor": -0.5, "ceil": 0.5}
"""What the input is moved by where rounding to the nearest integer is the function."""


def _round_reference(a: Array, z: Array, *, function: str) -> tuple[Array]:
    dtype = a.dtype
    a, z = arguments.widen(a, z)
    offset = _OFFSETS[function]
    u = a + offset
    move, edge = _moved_to_level(u, z, jnp.round(u), -jnp.inf, jnp.inf)
    new = jnp.where(move, edge - offset, a)
    return (arguments.missing_where(new, z).astype(dtype),)


project_round_p = define("pjax_project_round", _round_reference)


def project_round(
    a: Float[Array, "..."], z: Float[Array, "..."], function: str = "round"
) -> Float[Array, "..."]:
    r"""The input of the nearest point of the closed graph of a rounding to integers, elementwise:

    $$\arg\min_{a'} \min_j\ (a' - a)^2 + (j - z)^2 \quad\text{with } a' \in I_j,$$

    where $I_j$ is the closed interval of inputs that round to the integer j.

    **Arguments:**

    - `a`, `z`: input and queried output, of one shape.
    - `function`: "round" (to the nearest), "floor" or "ceil"; static.

    **Returns:** `a`, or the nearest edge of the interval of an integer closer to `z`. Unique but
    where two integers cost the same.

    **Errors:** `ArgumentError` for shapes, dtypes or functions other than these.

    **Cost:** one pass over the arrays.
    """
    arguments.one_of(_OFFSETS, function=function)
    a, z = arguments.floating(a=a, z=z)
    arguments.same_shape(a=a, z=z)
    (moved,) = project_round_p.bind(a, z, function=function)
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
    """Rounds `x` to the nearest of equally spaced levels from `-scale` to `scale`.

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
