"""One optax update by displacement."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import equinox as eqx

from .displacement import value_and_displacement
from .errors import ArgumentError

if TYPE_CHECKING:
    import optax


def displacement_step(
    fn: Callable[..., Any], optimiser: "optax.GradientTransformation", **settings: Any
) -> Callable[..., tuple[Any, Any, Any]]:
    """A training step: `optimiser` is given the displacement of `fn` where it would be given a gradient.

    **Arguments:**

    - `fn`: as in `pjp.displacement`.
    - `optimiser`: an optax transformation, or any object with its methods `init` and `update`, such as
      `optax.MultiSteps`; one that takes nothing but updates, state and parameters.
    - `settings`: the settings of `pjp.displacement`.

    **Returns:** `step(params, memory, *args) -> (params, memory, value)`, with the value of `fn` before the
    step. `memory` is the optimiser's, at first `optimiser.init(eqx.filter(params, eqx.is_inexact_array))`.
    Use it in `eqx.filter_jit`.

    **Errors:** those of `pjp.displacement`; `ArgumentError` for what is no optax transformation, and for one
    that needs the value or the gradient of a loss (a line search, Polyak's step): a displacement is
    the gradient of nothing.

    **Cost:** that of the displacement, the function and the optimiser.
    """
    if isinstance(optimiser, type) or not all(
        callable(getattr(optimiser, name, None)) for name in ("init", "update")
    ):
        raise ArgumentError(f"optimiser: expected an optax transformation, given {optimiser!r}")
    both = value_and_displacement(fn, **settings)

    def step(params: Any, memory: Any, *args: Any) -> tuple[Any, Any, Any]:
        trained = eqx.filter(params, eqx.is_inexact_array)
        _check(optimiser, trained, memory)
        value, direction = both(params, *args)
        updates, memory = optimiser.update(direction, memory, trained)
        return eqx.apply_updates(params, updates), memory, value

    return step


def _check(optimiser: "optax.GradientTransformation", trained: Any, memory: Any) -> None:
    try:
        eqx.filter_eval_shape(optimiser.update, trained, memory, trained)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            "optimiser: expected one that takes updates, its state and parameters alone, given one whose "
            f"update fails without more ({error}); line searches and Polyak's step need the value of a loss, "
            "which a displacement does not descend"
        ) from error
