"""Arguments of losses: labels, the step of the proximal operator, which axis and which examples."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..errors import ArgumentError
from ._arguments import compute_dtype, is_concrete, min_rank, missing_where, positive

Labels = np.ndarray[Any, np.dtype[Any]]


class Examples(NamedTuple):
    """What a loss of one value per example is computed from.

    - `x`, `target`: (..., C), the classes last.
    - `step`: (...), of the proximal operator.
    - `some`: (...), which examples count; None if all do.
    """

    x: Array
    target: Array
    step: Array
    some: Any

    def of(self, losses: Array) -> Array:
        """The losses, zero of the examples that do not count."""
        return losses if self.some is None else jnp.where(self.some, losses, 0)


def examples(
    x: Array,
    target: Any,
    lam: Any,
    *,
    names: tuple[str, str],
    axis: int = -1,
    where: Any = None,
    check: Callable[[Labels, int, str], None] | None = None,
) -> Examples:
    """The operands of a loss that has one value per example.

    **Arguments:**

    - `x`, `target`: as users give them (`labels_for`), with the classes along `axis`; `names` of the two.
    - `lam`: a number or an array that broadcasts to the examples.
    - `where`: None or Booleans that broadcast to the examples. The targets of those left out are not
      looked at, and their steps are zero.
    - `check`: of the target, where its values can be looked at: `check_labels` or `check_weights`.

    **Errors:** `ArgumentError` for anything else.
    """
    min_rank(1, **{names[0]: x})
    if not isinstance(axis, int) or isinstance(axis, bool) or not -x.ndim <= axis < x.ndim:
        raise ArgumentError(f"axis: expected an integer from {-x.ndim} to {x.ndim - 1}, given {axis!r}")
    target = target if isinstance(target, jax.Array) else np.asarray(target)
    if axis not in (-1, x.ndim - 1):
        if target.shape == x.shape:
            target = np.moveaxis(target, axis, -1) if is_concrete(target) else jnp.moveaxis(target, axis, -1)
        x = jnp.moveaxis(x, axis, -1)
    shape = x.shape[:-1]
    some = None if where is None else mask(where, shape)
    if some is not None and target.shape in (shape, x.shape):
        kept = some if target.shape == shape else some[..., None]
        concrete = is_concrete(kept) and is_concrete(target)
        target = (np if concrete else jnp).where(kept, target, np.zeros((), target.dtype))
    target = labels_for(x, target, name=names[1], check=check, some=some)
    step = steps_of(lam, x.dtype, shape)
    return Examples(x, target, step if some is None else jnp.where(some, step, 0), some)


def mask(where: Any, shape: tuple[int, ...]) -> Any:
    """Booleans, which elements count, in the given shape."""
    where = where if isinstance(where, jax.Array) else np.asarray(where)
    if where.dtype != jnp.bool_:
        raise ArgumentError(f"where: expected an array of Booleans, given dtype {where.dtype}")
    _broadcasts("where", where.shape, shape)
    return (np if is_concrete(where) else jnp).broadcast_to(where, shape)


def _broadcasts(name: str, given: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """An error if an array of a given shape does not broadcast to another."""
    try:
        fits = np.broadcast_shapes(given, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ArgumentError(f"{name}: expected a shape that broadcasts to {shape}, given {given}")


def steps_of(lam: Any, dtype: Any, shape: tuple[int, ...]) -> Array:
    """The step of each element, in the dtype that values of `dtype` are computed in.

    **Arguments:** `lam`, a number above zero, or an array of numbers of at least zero that broadcasts to
    `shape`; an element whose step is zero is left out.

    **Errors:** `ArgumentError` for anything else, as far as the values can be looked at.
    """
    if not isinstance(lam, jax.Array | np.ndarray):
        positive(lam=lam)
        return jnp.full(shape, lam, compute_dtype(dtype))
    if not (jnp.issubdtype(lam.dtype, jnp.floating) or jnp.issubdtype(lam.dtype, jnp.integer)):
        raise ArgumentError(f"lam: expected an array of real numbers, given dtype {lam.dtype}")
    _broadcasts("lam", lam.shape, shape)
    if is_concrete(lam):
        values = np.asarray(lam).astype(np.float64)
        refuse("lam", "finite numbers, not below zero", values, ~(np.isfinite(values) & (values >= 0)))
    return jnp.broadcast_to(jnp.asarray(lam, compute_dtype(dtype)), shape)


def with_steps(value: Array, step: Array) -> Array:
    """The value of a loss, in the shape it has together with its steps, which do not enter it.

    Along a batch axis of the steps alone the loss has the same value again and again.
    """
    return value * jnp.ones_like(step, value.dtype)


def moved_by(x: Array, moved: Array, step: Array) -> Array:
    """A proximal point as it was, but x where the step is zero, and NaN where it is NaN."""
    # Products with 1 leave all bits; on explicit meshes all get the sharding that a choice asks for.
    one = jnp.ones_like(moved) * jnp.ones_like(step, moved.dtype)
    step, moved, x = step * one.astype(step.dtype), moved * one, x * one
    return jnp.where(step == 0, x, missing_where(moved, step))


def elementwise(x: Array, **targets: Any) -> tuple[Array, ...]:
    """Targets of a loss of one value per element, as arrays of the shape and dtype of `x`."""
    found = []
    for name, target in targets.items():
        target = target if isinstance(target, jax.Array) else np.asarray(target)
        if not any(jnp.issubdtype(target.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_)):
            raise ArgumentError(f"{name}: expected real numbers, given dtype {target.dtype}")
        _broadcasts(name, target.shape, x.shape)
        found.append(jnp.broadcast_to(jnp.asarray(target, x.dtype), x.shape))
    return tuple(found)


def check_labels(labels: Any, classes: int, name: str = "labels", some: Any = True) -> None:
    """Integer labels are in `[0, classes)`; any other labels are one-hot along the last axis.

    Labels that are traced, or spread over processes, are not looked at, nor are those where `some` is False.
    """
    if not (is_concrete(labels) and is_concrete(some)):
        return
    values = np.asarray(labels)
    if np.issubdtype(values.dtype, np.integer):
        wrong = (values < 0) | (values >= classes)
        allowed = f"integers from 0 to {classes - 1}"
    else:
        hot = values == 1
        wrong = (hot.sum(-1) != 1) | ~(hot | (values == 0)).all(-1)
        allowed = "one-hot vectors, a single 1 among zeros"
    refuse(name, allowed, values, wrong & np.asarray(some, bool))


def check_weights(labels: Any, classes: int, name: str = "labels", some: Any = True) -> None:
    """Integer labels are in `[0, classes)`; any others are finite weights, not below zero, nor all zero.

    Labels that are traced, or spread over processes, are not looked at, nor are those where `some` is False.
    """
    if not (is_concrete(labels) and is_concrete(some)):
        return
    values = np.asarray(labels)
    if np.issubdtype(values.dtype, np.integer):
        check_labels(values, classes, name, some)
        return
    wrong = ~((values >= 0) & np.isfinite(values)).all(-1) | ~(values > 0).any(-1)
    allowed = "one-hot vectors, or weights that are not below zero and not all zero"
    refuse(name, allowed, values, wrong & np.asarray(some, bool))


def check_probabilities(labels: Any, name: str = "labels", some: Any = True) -> None:
    """Labels are from 0 to 1; those that are not concrete are not looked at."""
    if is_concrete(labels) and is_concrete(some):
        values = np.asarray(labels).astype(np.float64)
        refuse(name, "numbers from 0 to 1", values, ~((values >= 0) & (values <= 1)) & np.asarray(some, bool))


def check_positive(value: Any, name: str) -> None:
    """Numbers are finite and above zero; those that are not concrete are not looked at."""
    if not isinstance(value, jax.Array | np.ndarray):
        positive(**{name: value})
    elif is_concrete(value):
        values = np.asarray(value).astype(np.float64)
        refuse(name, "finite numbers above zero", values, ~(np.isfinite(values) & (values > 0)))


def check_signs(labels: Any) -> None:
    """Labels of threshold neurons are -1 or 1; those that are not concrete are not looked at."""
    if is_concrete(labels):
        values = np.asarray(labels)
        refuse("labels", "-1 or 1, which threshold neurons give", values, np.abs(values) != 1)


def refuse(name: str, allowed: str, values: Labels, wrong: Any) -> None:
    """An error if a value is wrong, of the first one."""
    if np.any(wrong):
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        where = f" at index {index}" if index else ""
        raise ArgumentError(f"{name}: expected {allowed}, given {values[index].tolist()}{where}")


def labels_for(
    outputs: Array,
    labels: Any,
    *,
    name: str = "labels",
    check: Callable[..., None] | None = None,
    some: Any = None,
) -> Array:
    """Labels as an array of the shape and dtype of `outputs`, (..., C).

    **Arguments:**

    - `labels`: (...) integers, which become one-hot, or an array of the shape of `outputs`.
    - `check`: of the values, where they can be looked at: `check_labels`, `check_weights` or None. Integers
      are always checked.
    - `some`: for which examples they are checked; None for all.
    """
    labels = labels if isinstance(labels, jax.Array) else np.asarray(labels)
    classes = outputs.shape[-1]
    some = True if some is None else some
    if labels.shape == outputs.shape:
        if not any(jnp.issubdtype(labels.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_)):
            raise ArgumentError(f"{name}: expected real numbers, given dtype {labels.dtype}")
        if check is not None and is_concrete(labels):
            check(np.asarray(labels).astype(np.float64), classes, name, some)
        return jnp.asarray(labels, outputs.dtype)
    if labels.shape == outputs.shape[:-1] and jnp.issubdtype(labels.dtype, jnp.integer):
        check_labels(labels, classes, name, some)
        return jax.nn.one_hot(labels, classes, dtype=outputs.dtype)
    raise ArgumentError(
        f"{name}: expected an array of shape {outputs.shape}, or integers of shape "
        f"{outputs.shape[:-1]}, given shape {labels.shape} and dtype {labels.dtype}"
    )
