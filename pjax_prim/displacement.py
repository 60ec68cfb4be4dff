"""`displacement`: a direction for optax from one sweep of projections."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .errors import ArgumentError
from .graph import ConstraintGraph
from .problem.sweep import Sweep, displacements
from .solving import Arrays, make_problem
from .transform import check_labels, prepare


def displacement(
    fn: Callable[..., Any], *, lam: float = 0.003, weight: float = 100.0, sweeps: int = 1
) -> Callable[..., Any]:
    r"""The direction in which one sweep of projections moves the parameters, to hand to optax.

    The drop-in for `eqx.filter_grad`: `displacement(fn)(params, *args)` goes where a gradient goes.
    Nothing is differentiated. The losses move the outputs by a proximal step; each operation, from
    the losses back to the parameters, is projected with its output moved so,

    $$\arg\min_{x', w'} |x' - x|^2 + v\,|w' - w|^2 + |f(x', w') - (y + \Delta y)|^2,$$

    and passes the displacements of its inputs on, summed over copies and consumers.

    **Arguments:**

    - `fn`: as in `pjp.solve`; what it computes from the losses afterwards has no effect.
    - `lam`: the step of the losses' proximal operators (in the place of their own), above zero. The
      larger it is, the further the outputs are moved, and the more the result differs from a gradient.
    - `weight`: v, of parameters in products and convolutions, above zero. The larger it is, the more of
      a change goes on to the layers below.
    - `sweeps`: what an iteration of a loop passes to the one before it arrives in the next sweep, so a
      loop needs as many as there are iterations that credit should go back. Without loops one is all.

    **Returns:** `direct(params, *args)`, which gives a pytree like `params` with None for what is not
    trained: *minus* the displacement, because optax subtracts gradients; the mean over examples, and of
    the size of the gradient of the mean loss, so that the settings of optax's optimisers hold.

    **Errors:** `ArgumentError`, and those of `pjp.solve`.

    **Cost:** the products of a gradient and one elementwise solve per node; loops that many sweeps.

    **Source:** target propagation by projections; the sweep is that of arXiv 2506.05878 without the
    averaging, which weakens the signal from layer to layer.
    """
    settings = _settings(lam, weight, sweeps)

    def direct(params: Any, *args: Any) -> Any:
        prepared = prepare(fn, params, args)
        check_labels(prepared.graph, prepared.data)
        captured = [array for _, array in prepared.graph.function.captured]
        arrays = (prepared.parameters, prepared.data, captured)
        return prepared.tree(_run(prepared.graph, settings, arrays))

    return direct


def value_and_displacement(
    fn: Callable[..., Any], *, lam: float = 0.003, weight: float = 100.0, sweeps: int = 1
) -> Callable[..., tuple[Any, Any]]:
    """`fn`'s value beside its `displacement`: the drop-in for `eqx.filter_value_and_grad`.

    **Arguments, errors:** as `displacement`.

    **Returns:** a function of `(params, *args)` that gives `(fn(params, *args), displacement)`. The value
    may have any shape.
    """
    direct = displacement(fn, lam=lam, weight=weight, sweeps=sweeps)

    def both(params: Any, *args: Any) -> tuple[Any, Any]:
        moved = direct(params, *args)
        return fn(params, *args), moved

    return both


@eqx.filter_jit
def _run(graph: ConstraintGraph, settings: Sweep, arrays: Arrays) -> list[Array]:
    problem = make_problem(graph, "compressed", arrays)
    return [
        jnp.zeros_like(given) if moved is None else (-moved).astype(given.dtype)
        for given, moved in zip(arrays[0], displacements(problem, arrays[0], settings), strict=True)
    ]


def _settings(lam: Any, weight: Any, sweeps: Any) -> Sweep:
    for name, value in (("lam", lam), ("weight", weight)):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and 0 < value < math.inf):
            raise ArgumentError(f"{name}: expected a finite number above zero, given {value!r}")
    if isinstance(sweeps, bool) or not isinstance(sweeps, int) or sweeps < 1:
        raise ArgumentError(f"sweeps: expected an integer of at least 1, given {sweeps!r}")
    return Sweep(float(lam), float(weight), sweeps)
