"""The relu of a sum of k inputs, and the projection onto its graph."""

import functools
import math
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from . import _arguments as arguments
from ._definition import define


def moved_output(s: Array, d: Array, inputs: int | Array) -> Array:
    """The relu of a sum s of so many inputs that moved by d each."""
    return jnp.maximum(s + inputs * d, 0)


def displace_reference(
    total: Array,
    z: Array,
    *number: Array,
    inputs: int | None = None,
    output: Callable[[Array, Array, int | Array], Array] = moved_output,
) -> tuple[Array, Array]:
    r"""All inputs move by one d. With s their sum, the cheapest point of the active branch has
    $d = \max((z - s)/(k + 1), -s/k)$, that of the inactive branch $d = \min(-s/k, 0)$.

    - $s > 0$: the inactive point also lies on the active branch, which therefore is no worse.
    - $s \le 0$: the inactive point is the query, at a cost of $z^2$. The active branch costs
      less only where it is left by $d = (z - s)/(k + 1)$, a cost of $(z - s)^2/(k + 1)$:
      where $-s < (\sqrt{k + 1} - 1) z$.

    No square is formed, so the choice is right at every scale.
    """
    s, z, *rest = arguments.widen(total, z, *number)
    k = rest[0] if inputs is None else inputs
    active = (z - s) / (k + 1)
    gain = (jnp.sqrt(k + 1) if isinstance(k, jax.Array) else math.sqrt(k + 1)) - 1
    d = jnp.where(s > 0, jnp.maximum(active, -s / k), jnp.where(-s < gain * z, active, 0))
    d = arguments.missing_where(arguments.finite_or_zero(d), z)
    return d, output(s, d, k)


displace_sum_relu_p = define("pjax_displace_sum_relu", displace_reference)
"""(s, z) -> (d, output): how far each of `inputs` inputs of sum s moves when their relu is to be z,
and what it becomes. The same for all inputs, so that it is one array however many there are. Without
`inputs` their number is a third operand, as in `displace_sum_p`."""


def _project_reference(*arrays: Array) -> tuple[Array, ...]:
    dtypes = [array.dtype for array in arrays[:-1]]
    *inputs, z = arguments.widen(*arrays)
    total = functools.reduce(operator.add, inputs)
    d, _ = displace_reference(total, z, inputs=len(inputs))
    return tuple((x + d).astype(dtype) for x, dtype in zip(inputs, dtypes, strict=True))


project_sum_relu_p = define("pjax_project_sum_relu", _project_reference)


def project_sum_relu(
    inputs: tuple[Float[Array, "..."], ...], z: Float[Array, "..."]
) -> tuple[Float[Array, "..."], ...]:
    r"""The inputs of the nearest point of $\{(x_1, \dots, x_k, z) : z = \max(\sum_i x_i, 0)\}$,
    elementwise:

    $$\arg\min_{x'} \textstyle\sum_i (x'_i - x_i)^2 + (\max(\sum_i x'_i, 0) - z)^2.$$

    **Arguments:**

    - `inputs`: k arrays of one shape, at least 1.
    - `z`: the queried output, of that shape.

    **Returns:** the projected inputs, a tuple. They are unique except where both branches cost the same;
    then the inputs themselves. Inputs whose sum overflows the dtype are returned unchanged.

    **Errors:** `ArgumentError` for shapes or dtypes other than these.

    **Cost:** one pass over the k + 1 arrays.
    """
    named = arguments.numbered("inputs", inputs)
    *arrays, z = arguments.floating(**named, z=z)
    arguments.same_shape(**dict(zip(named, arrays, strict=True)), z=z)
    return project_sum_relu_p.bind(*arrays, z)


def _reference(*inputs: Array) -> tuple[Array]:
    dtype = jnp.result_type(*inputs)
    total = functools.reduce(operator.add, arguments.widen(*inputs))
    return (jnp.maximum(total, 0).astype(dtype),)


sum_relu_p = define("pjax_sum_relu", _reference, differentiable=True)


def sum_relu(*xs: Float[Array, "..."]) -> Float[Array, "..."]:
    """Computes `max(x_1 + ... + x_k, 0)` as one operation, which is one constraint of k inputs.

    **Arguments:** arrays that broadcast together, at least 1.

    **Returns:** an array of the broadcast shape.

    **Errors:** `ArgumentError` for no argument, for shapes that do not broadcast and for dtypes
    that are not floating-point.
    """
    arrays = arguments.floating(**arguments.numbered("xs", xs))
    shape = arguments.broadcast_shape("xs", arrays)
    (result,) = sum_relu_p.bind(*(jnp.broadcast_to(x, shape) for x in arrays))
    return result
