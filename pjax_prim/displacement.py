"""`displacement`: a direction for optax from one sweep of projections."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .errors import ArgumentError
from .graph import ConstraintGraph
from .primitives._arguments import positive
from .problem.reverse import forward_gaps, reverse_displacements
from .problem.sweep import LAM, WEIGHT, Sweep, displacements
from .solving import Arrays, make_problem
from .transform import Prepared, check_labels, prepare

Loops = Literal["reverse", "parallel"]


def displacement(
    fn: Callable[..., Any],
    *,
    lam: float = LAM,
    weight: float = WEIGHT,
    loops: Loops = "reverse",
    sweeps: int = 1,
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
    - `weight`: of parameters in products and convolutions, above zero: v is `weight` times one more than the
      mean squared length of what they are multiplied with, so that examples with little activity do not
      count for more than others however large activations are. The larger it is, the more of a change
      goes on to the layers below.
    - `loops`: how a sweep goes through the iterations of a `scan`: "reverse", one after the other from the
      last one, which gives all credit in one sweep; "parallel", all at once, where what an iteration
      passes to the one before it arrives in the next sweep.
    - `sweeps`: with "parallel" loops, how many iterations credit goes back. Without loops one is all.

    **Returns:** `direct(params, *args)`, which gives a pytree like `params` with None for what is not
    trained: *minus* the displacement, because optax subtracts gradients; the mean over examples, and of
    the size of the gradient of the mean loss, so that the settings of optax's optimisers hold.

    **Errors:** `ArgumentError`, and those of `pjp.solve`. `GraphError` for a loop in "reverse" whose carry
    depends on a loss.

    **Cost:** the products of a gradient and one elementwise solve per node; "parallel" that many sweeps.
    Digits: at least half of those of the dtype; what is small is projected to first order.

    **Source:** target propagation by projections; the sweep is that of arXiv 2506.05878 without the
    averaging, which weakens the signal from layer to layer.
    """
    settings = _settings(lam, weight, loops, sweeps)

    def direct(params: Any, *args: Any) -> Any:
        prepared, arrays = _parts(fn, params, args, loops == "reverse")
        run = _reverse if loops == "reverse" else _parallel
        return prepared.tree(run(prepared.graph, settings, arrays))

    return direct


def gap(fn: Callable[..., Any]) -> Callable[..., Float[Array, ""]]:
    """The gap of a function's forward pass: how far its parameters are from a solution.

    In the forward pass every operation's constraint is satisfied, so the gap is the distance by which
    the projections of the losses (their proximal steps, with steps of their own) move what reaches them.

    **Arguments:** `fn` as in `pjp.solve`.

    **Returns:** a function of `(params, *args)` that gives a number; zero if all losses are satisfied.

    **Errors:** those of `displacement`.

    **Cost:** a forward pass and one projection per example.
    """

    def measure(params: Any, *args: Any) -> Float[Array, ""]:
        prepared, arrays = _parts(fn, params, args, True)
        return _gap(prepared.graph, arrays)

    return measure


def value_and_displacement(
    fn: Callable[..., Any],
    *,
    lam: float = LAM,
    weight: float = WEIGHT,
    loops: Loops = "reverse",
    sweeps: int = 1,
) -> Callable[..., tuple[Any, Any]]:
    """`fn`'s value beside its `displacement`: the drop-in for `eqx.filter_value_and_grad`.

    **Arguments, errors:** as `displacement`.

    **Returns:** a function of `(params, *args)` that gives `(fn(params, *args), displacement)`. The value
    may have any shape.
    """
    direct = displacement(fn, lam=lam, weight=weight, loops=loops, sweeps=sweeps)

    def both(params: Any, *args: Any) -> tuple[Any, Any]:
        moved = direct(params, *args)
        return fn(params, *args), moved

    return both


def _parts(
    fn: Callable[..., Any], params: Any, args: tuple[Any, ...], sequential: bool
) -> tuple[Prepared, Arrays]:
    prepared = prepare(fn, params, args, sequential=sequential)
    check_labels(prepared.graph, prepared.data)
    captured = [array for _, array in prepared.graph.function.captured]
    return prepared, (prepared.parameters, prepared.data, captured)


@eqx.filter_jit
def _reverse(graph: ConstraintGraph, settings: Sweep, arrays: Arrays) -> list[Array]:
    parameters, data, captured = arrays
    moves = reverse_displacements(graph, graph.constants(data, captured), parameters, settings)
    return _against(moves, parameters)


@eqx.filter_jit
def _parallel(graph: ConstraintGraph, settings: Sweep, arrays: Arrays) -> list[Array]:
    problem = make_problem(graph, "compressed", arrays)
    return _against(displacements(problem, arrays[0], settings), arrays[0])


@eqx.filter_jit
def _gap(graph: ConstraintGraph, arrays: Arrays) -> Float[Array, ""]:
    parameters, data, captured = arrays
    gaps = forward_gaps(graph, graph.constants(data, captured), parameters)
    return jnp.sqrt(sum(gaps, jnp.zeros(())))


def _against(moves: Sequence[Array | None], parameters: Sequence[Array]) -> list[Array]:
    """Minus the displacements, in the dtypes of the parameters; zero where there is none."""
    return [
        jnp.zeros_like(given) if moved is None else (-moved).astype(given.dtype)
        for given, moved in zip(parameters, moves, strict=True)
    ]


def _settings(lam: Any, weight: Any, loops: Any, sweeps: Any) -> Sweep:
    positive(lam=lam, weight=weight)
    if isinstance(sweeps, bool) or not isinstance(sweeps, int) or sweeps < 1:
        raise ArgumentError(f"sweeps: expected an integer of at least 1, given {sweeps!r}")
    if loops not in get_args(Loops):
        raise ArgumentError(f"loops: expected {' or '.join(map(repr, get_args(Loops)))}, given {loops!r}")
    if loops == "reverse" and sweeps != 1:
        raise ArgumentError(f'sweeps: only for loops="parallel", given {sweeps}; one in reverse is all')
    return Sweep(float(lam), float(weight), sweeps)
