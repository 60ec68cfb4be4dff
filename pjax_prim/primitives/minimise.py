"""A number that is to be small: its proximal operator goes down by the step."""

from jaxtyping import Array, Float

from . import _arguments as arguments
from . import _losses as losses
from ._definition import define


def _prox_reference(y: Array, step: Array) -> tuple[Array]:
    dtype = y.dtype
    y, step = arguments.widen(y, step)
    return (losses.moved_by(y.astype(dtype), (y - step).astype(dtype), step),)


prox_minimise_p = define("pjax_prox_minimise", _prox_reference)


def _reference(y: Array, step: Array) -> tuple[Array]:
    return (losses.with_steps(y, step),)


minimise_p = define("pjax_minimise", _reference, differentiable=True, steps=True)


def minimise(y: Float[Array, "..."], lam: float | Float[Array, "..."] = 1.0) -> Float[Array, "..."]:
    r"""Asks that each element of an array be small; its value is the array.

    The proximal operator, $\arg\min_{y'} (y' - y)^2 / (2 \lambda) + y'$, is $y - \lambda$.

    **Arguments:**

    - `y`: any array.
    - `lam`: the step of the proximal operator that a constraint graph uses; it does not enter
      the value. It is a number above zero, or an array of numbers of at least zero that broadcasts to `y`.

    **Returns:** `y`.

    **Errors:** `ArgumentError` for dtypes or settings other than these.
    """
    (y,) = arguments.floating(y=y)
    (loss,) = minimise_p.bind(y, losses.steps_of(lam, y.dtype, y.shape))
    return loss
