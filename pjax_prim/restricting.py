"""Which parameters are restricted how: in solvers, in training, and after any step of an optimiser."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array

from .errors import ArgumentError
from .graph.paths import Pattern, matches, path_of
from .restrictions import AbstractRestriction

if TYPE_CHECKING:
    import optax

Pairs: TypeAlias = tuple[tuple[Pattern, AbstractRestriction | None], ...]
# Keys of a mapping are invariant to type checkers: as patterns, a dictionary of texts would not be one.
Restrictions: TypeAlias = AbstractRestriction | Mapping[Any, AbstractRestriction | None] | Pairs | None
"""One restriction of all parameters; or patterns of paths (`graph/paths.py`), each with a restriction or
None, of which the first that matches a parameter counts; or None.

A parameter that no pattern matches is free."""


def pairs_of(restrictions: Restrictions) -> Pairs:
    """Patterns with restrictions, of any way to write them.

    **Errors:** `ArgumentError` for what is none of them.
    """
    if restrictions is None:
        return ()
    if isinstance(restrictions, AbstractRestriction):
        return (("*", restrictions),)
    pairs = restrictions.items() if isinstance(restrictions, Mapping) else restrictions
    if not isinstance(restrictions, Mapping | tuple | list):
        raise _unknown(restrictions)
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise _unknown(restrictions)
        pattern, chosen = pair
        if not isinstance(pattern, str | re.Pattern):
            raise ArgumentError(
                f"restrictions: expected patterns of paths such as 'layers.*.weight', given {pattern!r}"
            )
        if not isinstance(chosen, AbstractRestriction | None):
            raise ArgumentError(
                f"restrictions: {_text(pattern)}: expected a restriction such as pjp.Bounds(-1.0, 1.0) or "
                f"None, given {chosen!r}"
            )
    return tuple((pattern, chosen) for pattern, chosen in pairs)


def choose(pairs: Pairs, path: str) -> AbstractRestriction | None:
    """The restriction of the parameter at a path, or None."""
    return next((chosen for pattern, chosen in pairs if matches(pattern, path)), None)


def check_patterns(pairs: Pairs, paths: Sequence[str], what: str = "restrictions") -> None:
    """`ArgumentError` for a pattern that matches no parameter."""
    for pattern, _ in pairs:
        if not any(matches(pattern, path) for path in paths):
            raise ArgumentError(
                f"{what}: {_text(pattern)} matches no parameter; there are {', '.join(paths)}"
            )


def resolve(
    restrictions: Restrictions, names: Sequence[str], arrays: Sequence[Any]
) -> tuple[AbstractRestriction | None, ...]:
    """The restriction of each parameter; none at all where all are free.

    **Arguments:** `names`, of the parameters, as `jax.tree_util.keystr` gives them; `arrays`, them or their
    shapes.

    **Errors:** `ArgumentError` for a pattern that matches none, and for a parameter that cannot be in the set
    that it is to be in.
    """
    pairs = pairs_of(restrictions)
    if not pairs:
        return ()
    paths = [path_of(name) for name in names]
    check_patterns(pairs, paths)
    found = tuple(choose(pairs, path) for path in paths)
    for path, array, chosen in zip(paths, arrays, found, strict=True):
        if chosen is None:
            continue
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ArgumentError(f"restrictions: {path}: expected real numbers, given dtype {array.dtype}")
        expected = chosen.expected(tuple(array.shape))
        if expected is not None:
            raise ArgumentError(
                f"restrictions: {path}: {chosen!r} expects {expected}, given shape {tuple(array.shape)}; "
                "name the parameters that are meant by patterns of their paths"
            )
    return found


def project_all(arrays: Sequence[Array], restrictions: Sequence[AbstractRestriction | None]) -> list[Array]:
    """Each array at the nearest point of its set.

    **Arguments:** `restrictions`, one for each array, or none at all.
    """
    if not restrictions:
        return list(arrays)
    return [
        array if chosen is None else chosen.project(array)
        for array, chosen in zip(arrays, restrictions, strict=True)
    ]


def project_params(params: Any, restrictions: Restrictions) -> Any:
    """Parameters at the nearest points of the sets that they are restricted to.

    After `optax.apply_updates` (or `eqx.apply_updates`) in a training loop of one's own this keeps every
    condition exactly, whatever the optimiser was.

    **Arguments:**

    - `params`: an Equinox model or any pytree; its floating-point arrays may be restricted.
    - `restrictions`: one for all of them; or a mapping (or pairs) from patterns of paths, such as
      `"layers.*.weight"` or a compiled regular expression, to a restriction or None. The first pattern that
      matches a path counts. What none matches is free.

    **Returns:** a pytree like `params`.

    **Errors:** `ArgumentError` for a pattern that matches no parameter, and for a parameter whose shape does
    not fit; it names the parameter and what is allowed.

    Works under `jax.jit`, `jax.vmap` and on meshes with automatic axes, where a restriction of matrices
    gathers a divided one.
    """
    chosen = _by_path(params, pairs_of(restrictions))
    return jtu.tree_map_with_path(
        lambda path, leaf: chosen[path].project(leaf) if path in chosen else leaf, params
    )


def restricted(
    optimiser: "optax.GradientTransformation | None", restrictions: Restrictions
) -> "optax.GradientTransformationExtraArgs":
    """An optax transformation whose updates lead to parameters in the sets that they are restricted to.

    The update is the nearest point of the sets to where `optimiser` leads, less the parameters, so that
    `optax.apply_updates` comes there up to the rounding of that sum: zeros, signs and bounds of 0 hold
    exactly, other levels and lengths to the last digits of the larger of old and new parameter. Where
    exactness to the last bit counts, call `pjp.project_params` after `apply_updates` in place of this.

    **Arguments:**

    - `optimiser`: any optax transformation; None for the last link of an `optax.chain`.
    - `restrictions`: as of `pjp.project_params`.

    **Returns:** a transformation with the state of `optimiser`, so checkpoints of it fit. Its `update` needs
    the parameters.

    **Errors:** those of `pjp.project_params`, from `init` and `update`; `ArgumentError` for what is no optax
    transformation, and where `update` is given no parameters.
    """
    import optax  # half a second, and only here needed

    pairs = pairs_of(restrictions)
    inner = optax.identity() if optimiser is None else optimiser
    if not isinstance(inner, optax.GradientTransformation):
        raise ArgumentError(f"optimiser: expected an optax transformation or None, given {optimiser!r}")
    inner = optax.with_extra_args_support(inner)

    def init(params: Any) -> Any:
        _by_path(params, pairs)
        return inner.init(params)

    def update(updates: Any, state: Any, params: Any = None, **more: Any) -> tuple[Any, Any]:
        if params is None:
            raise ArgumentError("params: expected the parameters: optimiser.update(updates, state, params)")
        updates, state = inner.update(updates, state, params, **more)
        chosen = _by_path(params, pairs)

        def to_set(path: Any, old: Any, step: Any) -> Any:
            if path not in chosen or not eqx.is_array(step):
                return step
            return chosen[path].project((old + step).astype(old.dtype)) - old

        return jtu.tree_map_with_path(to_set, params, updates, is_leaf=lambda x: x is None), state

    return optax.GradientTransformationExtraArgs(init, update)


def _by_path(params: Any, pairs: Pairs) -> dict[Any, AbstractRestriction]:
    """The restricted leaves of parameters."""
    leaves = [(path, leaf) for path, leaf in jtu.tree_leaves_with_path(params) if _is_inexact(leaf)]
    names = [jtu.keystr(path) or "params" for path, _ in leaves]
    found = resolve(pairs, names, [leaf for _, leaf in leaves])
    return {
        path: chosen for (path, _), chosen in zip(leaves, found, strict=bool(found)) if chosen is not None
    }


def _is_inexact(leaf: Any) -> bool:
    is_array = eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct | np.ndarray)
    return is_array and bool(jnp.issubdtype(leaf.dtype, jnp.inexact))


def _text(pattern: Pattern) -> str:
    return repr(pattern if isinstance(pattern, str) else pattern.pattern)


def _unknown(given: Any) -> ArgumentError:
    return ArgumentError(
        "restrictions: expected a restriction, a mapping from patterns of paths such as 'layers.*.weight' to "
        f"restrictions, or pairs of them, given {given!r}"
    )
