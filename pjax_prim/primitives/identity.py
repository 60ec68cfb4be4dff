"""Projection onto the graph of the identity, {(a, z): z = a}."""

from jaxtyping import Array, Float

from . import _arguments as arguments
from ._definition import define


def _reference(a: Array, z: Array) -> tuple[Array]:
    dtype = a.dtype
    a, z = arguments.widen(a, z)
    return ((0.5 * a + 0.5 * z).astype(dtype),)


project_identity_p = define("pjax_project_identity", _reference)


def project_identity(a: Float[Array, "..."], z: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The input of the nearest point of $\{(a, z) : z = a\}$, elementwise:

    $$\arg\min_{a'} (a' - a)^2 + (a' - z)^2.$$

    **Arguments:**

    - `a`, `z`: input and queried output, of one shape.

    **Returns:** the midpoint, `(a + z) / 2`. It is unique.

    **Errors:** `ArgumentError` for shapes or dtypes other than these.

    **Cost:** one pass over the arrays.
    """
    a, z = arguments.floating(a=a, z=z)
    arguments.same_shape(a=a, z=z)
    (moved,) = project_identity_p.bind(a, z)
    return moved
