"""`displacement`: a direction for optax, by pullbacks that are projections."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float

from .arguments import check_are_arrays, check_data, check_parameters, pair_of
from .errors import ArgumentError
from .feasibility import FeasibilityProblem
from .graph.program import trace
from .pullbacks import WEIGHT, directions, settings_of
from .settings import Setting, check_positive, check_scalar


def displacement(
    fn: Callable[..., Any],
    *,
    lam: Setting | None = None,
    weight: Setting = WEIGHT,
    has_aux: bool = False,
) -> Callable[..., Any]:
    r"""The direction in which projections move the parameters, to hand to optax.

    The drop-in for `eqx.filter_grad`: `displacement(fn)(params, *args)` goes where a gradient goes. The
    program of `fn` runs as it is, with its loops, branches, checkpoints and shardings. On the way back, each
    operation is projected with its output moved,

    $$\arg\min_{x', w'} u\,|x' - x|^2 + v\,|w' - w|^2 + |f(x', w') - (y + \Delta y)|^2,$$

    and passes the displacements of its inputs on, summed over copies and consumers.

    **To first order** (`lam=None`, the default) these are the limits of small steps: a gradient whose signals
    are damped neuron by neuron. A product of a row a and a column b passes its signal on divided by
    1 + |a|^2 / v + |b|^2 / u with v = `weight` (1 + |a|^2) and u = `weight` (1 + |b|^2), a number between 1
    and 1 + 2 / `weight`; what depends on no parameter does not move and has no term. Step functions (sign,
    round, floor, ceil, quantize, comparisons used as numbers, threshold neurons, `pjp.one_hot_argmax`,
    `pjp.top_k_mask`), whose derivative is zero, pass a signal on that is weaker the farther an edge is; what
    rounding leaves of a number, x - floor(x), has the slope of the number. All other operations have their
    own derivative, and `custom_vjp` and `custom_jvp` functions that of their author. On smooth functions a
    gradient is as good; a displacement goes through hard ones, too.

    **Finite** steps (`lam=0.1`) take the exact projections in place of their limits: the losses move their
    operands by proximal steps `lam`, in a program that is several times as large.

    **Arguments:**

    - `fn`: `fn(params, *args)` returns a number, as for `eqx.filter_grad`; an array stands for its mean. With
      `has_aux` it returns that and anything else.
    - `lam`: None, or the step of the losses' proximal operators, above zero. The larger it is, the more the
      result differs from a gradient.
    - `weight`: the weight of what the operands of products are multiplied with, above zero. The smaller it
      is, the more a signal is damped.
    - `has_aux`: whether `fn` returns a pair of value and auxiliary output.

    `lam` and `weight` may be Python's, NumPy's or JAX's numbers, traced ones too, which are not checked.

    **Returns:** `direct(params, *args)`, which gives a pytree like `params` with None for what is not
    trained: *minus* the displacement, because optax subtracts gradients, in the units of a gradient; with
    `has_aux` a pair of it and the auxiliary output.

    **Errors:** `ArgumentError` for settings and parameters other than these; `GraphError` for a value that is
    no floating-point number or depends on no parameter; those of `jax.grad`.

    **Cost:** that of the gradient and of the squared lengths of the operands of products.

    **Source:** target propagation by projections; a sweep of arXiv 2506.05878 without the averaging, which
    weakens the signal from layer to layer.
    """
    both = value_and_displacement(fn, lam=lam, weight=weight, has_aux=has_aux)

    def direct(params: Any, *args: Any, **kwargs: Any) -> Any:
        value, moved = both(params, *args, **kwargs)
        return (moved, value[1]) if has_aux else moved

    return direct


def value_and_displacement(
    fn: Callable[..., Any],
    *,
    lam: Setting | None = None,
    weight: Setting = WEIGHT,
    has_aux: bool = False,
) -> Callable[..., tuple[Any, Any]]:
    """`fn`'s value beside its `displacement`, from one pass: the drop-in for `eqx.filter_value_and_grad`.

    **Arguments, errors:** as `displacement`.

    **Returns:** a function of `(params, *args)` that gives `(fn(params, *args), displacement)`. The value
    may have any shape.
    """
    settings = {"weight": weight} if lam is None else {"weight": weight, "lam": lam}
    check_positive(**settings)
    for name, setting in settings.items():
        check_scalar(name, setting)
    if not callable(fn):
        raise ArgumentError(f"fn: expected a function of (params, *args), given {fn!r}")

    def both(params: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        check_are_arrays(params, args)
        check_parameters(params, jnp.inexact)
        check_data((*args, kwargs) if kwargs else args)
        trained, fixed = eqx.partition(params, eqx.is_inexact_array)
        leaves, treedef = jtu.tree_flatten(trained)
        leaves = [jnp.asarray(leaf) for leaf in leaves]
        outside: list[Any] = []

        def flat(leaves: list[Any]) -> list[Any]:
            returned = fn(eqx.combine(jtu.tree_unflatten(treedef, leaves), fixed), *args, **kwargs)
            value, aux = pair_of(returned) if has_aux else (returned, None)
            arrays, rest = eqx.partition(aux, lambda leaf: isinstance(leaf, jax.Array))
            values, structure = jtu.tree_flatten(value)
            arrays, inside = jtu.tree_flatten(arrays)
            outside[:] = structure, len(values), inside, rest
            return [*_numbers(values, returned), *arrays]

        closed = trace(flat, leaves)
        structure, count, inside, rest = outside
        outputs, found = directions(closed, leaves, (), settings_of(closed, lam, weight), count)
        value = jtu.tree_unflatten(structure, outputs[:count])
        moved = jtu.tree_unflatten(treedef, found)
        if not has_aux:
            return value, moved
        return (value, eqx.combine(jtu.tree_unflatten(inside, outputs[count:]), rest)), moved

    return both


def _numbers(values: list[Any], returned: Any) -> list[Array]:
    if not values or not all(eqx.is_array_like(x) for x in values):
        raise ArgumentError(f"fn: expected it to return a number or an array, given {returned!r}")
    if len(values) > 1:
        raise ArgumentError(
            f"fn: expected it to return one number or array, given {len(values)}; add losses up, and return "
            "anything else as auxiliary output (has_aux=True)"
        )
    return [jnp.asarray(x) for x in values]


def gap(fn: Callable[..., Any]) -> Callable[..., Float[Array, ""]]:
    """The gap of a function's forward pass: how far its parameters are from a solution.

    In the forward pass every operation's constraint is satisfied, so the gap is the distance by which
    the projections of the losses (their proximal steps, with steps of their own) move what reaches them.

    **Arguments:** `fn` as in `pjp.solve`.

    **Returns:** a function of `(params, *args)` that gives a number; zero if all losses are satisfied.

    **Errors:** those of `pjp.solve`.

    **Cost:** a forward pass and one projection per example.
    """

    def measure(params: Any, *args: Any) -> Float[Array, ""]:
        check_are_arrays(params, args)
        problem = FeasibilityProblem.of(fn, params, *args)
        problem.check()
        gaps = [jnp.square(gap) for gap in problem.gaps().values()]
        return jnp.sqrt(sum(gaps[1:], gaps[0]))

    return measure
