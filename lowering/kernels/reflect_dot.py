"""The dot product's parts of a Douglas-Rachford step, in which copies are read once and written at most once.

`reflect_dot` does all of it in one pass for the set that is projected second; for the set that is projected
first `leave_dot` ends one step and begins the next, and `displace_dot` begins the first.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from pjax_prim.primitives.reflect_dot import displacement_of_norms

from .arrays import for_rows
from .copies import Grid, Strips


def reflect_dot(
    a: Array, b: Array, mean_a: Array, mean_b: Array, *scalars: Array, interpret: bool = False
) -> tuple[Array, ...]:
    """What `pjax_prim.primitives.reflect_dot_p` computes, in float32."""
    scalars = for_rows(*scalars)
    grid = Grid(a, b, scalars[0], mean_a, mean_b)
    new_a, new_b, output, squared, *sums = grid.call(
        _reflect,
        "pjax_reflect_dot",
        (*grid.given(a, b), *grid.means(mean_a, mean_b), *grid.rows(*scalars)),
        (grid.copies, grid.copies, grid.mean_a, grid.mean_b, grid.row, grid.row),
        ("a", "b", "row", "row", "sum_a", "sum_b"),
        interpret,
        in_place=True,
    )
    p, q, k = grid.p, grid.q, grid.k
    return (
        grid.original(new_a, p, q, k),
        grid.original(new_b, p, q, k),
        grid.original(output, p, q),
        grid.original(squared, p, q),
        *grid.averages(*sums, a.dtype, b.dtype),
    )


def displace_dot(a: Array, b: Array, z: Array, *, interpret: bool = False) -> tuple[Array, ...]:
    """What `pjax_prim.primitives.displace_dot_p` computes, in float32."""
    grid = Grid(a, b, z)
    *solved, sums_a, sums_b = grid.call(
        _displace,
        "pjax_displace_dot",
        (*grid.given(a, b), *grid.rows(z)),
        (grid.copies, grid.copies, grid.row),
        ("row",) * 5 + ("sum_a", "sum_b"),
        interpret,
        in_place=False,
    )
    means = grid.averages(sums_a, sums_b, a.dtype, b.dtype)
    return (*(grid.original(x, grid.p, grid.q) for x in solved), *means)


def leave_dot(
    a: Array,
    b: Array,
    mean_a: Array,
    mean_b: Array,
    *scalars: Array,
    interpret: bool = False,
) -> tuple[Array, ...]:
    """What `pjax_prim.primitives.leave_dot_p` computes, in float32."""
    scalars = for_rows(*scalars)
    grid = Grid(a, b, scalars[0], mean_a, mean_b)
    new_a, new_b, *found, sums_a, sums_b = grid.call(
        _leave,
        "pjax_leave_dot",
        (*grid.given(a, b), *grid.means(mean_a, mean_b), *grid.rows(*scalars)),
        (grid.copies, grid.copies, grid.mean_a, grid.mean_b, *[grid.row] * 6),
        ("a", "b", *["row"] * 6, "sum_a", "sum_b"),
        interpret,
        in_place=True,
    )
    p, q, k = grid.p, grid.q, grid.k
    return (
        grid.original(new_a, p, q, k),
        grid.original(new_b, p, q, k),
        *(grid.original(x, p, q) for x in found),
        *grid.averages(sums_a, sums_b, a.dtype, b.dtype),
    )


def _clear(*refs: Any) -> None:
    for ref in refs:
        ref[...] = jnp.zeros(ref.shape, jnp.float32)


def _add_norms(columns_ref: Any, here: Any, u: Array, v: Array) -> None:
    columns_ref[here, 0:1] += 0.25 * jnp.sum(jnp.square(u + v), -1, keepdims=True)
    columns_ref[here, 1:2] += 0.25 * jnp.sum(jnp.square(u - v), -1, keepdims=True)


def _solve(columns_ref: Any, z_ref: Any) -> tuple[Array, ...]:
    """c, e, the steps and the outputs of a block, each a row, from its norms in columns."""
    transposed = columns_ref[...].T
    s, d, z = transposed[0:1], transposed[1:2], z_ref[...].astype(jnp.float32)
    return displacement_of_norms(s, d, z)


def _to_columns(rows_ref: Any, coefficients_ref: Any, rows: Any) -> None:
    for index, x in enumerate(rows):
        rows_ref[index : index + 1] = x
    coefficients_ref[:, :8] = rows_ref[...].T


def _coefficients(coefficients_ref: Any, here: Any, count: int = 4) -> list[Array]:
    return [coefficients_ref[here, j : j + 1] for j in range(count)]


def _add_sums(
    strips: Strips, i: Array, lanes: Any, new_a: Array, new_b: Array, q: int, partial_ref: Any, sum_b_ref: Any
) -> None:
    here = strips.rows(i)
    partial_ref[:, lanes] += jnp.where(strips.inside(i, q), new_a, 0)
    sum_b_ref[here, lanes] = jnp.where(strips.is_first_row, 0, sum_b_ref[here, lanes]) + new_b


def _add_reflected(
    strips: Strips, coefficients_ref: Any, q: int, partial_ref: Any, sum_a_ref: Any, sum_b_ref: Any
) -> None:
    """Sums over the reflected copies 2 P x - x of a block of copies x."""

    def add(lanes: Any, i: Array, _: None) -> None:
        here = strips.rows(i)
        c, e, step_a, step_b = _coefficients(coefficients_ref, here)
        a, b = strips.load(here, lanes)
        keep, cross = 1 + 2 * c, 2 * e
        new_a = strips.first_component(lanes, keep * a + cross * b, 2 * step_a)
        new_b = strips.first_component(lanes, keep * b + cross * a, 2 * step_b)
        _add_sums(strips, i, lanes, new_a, new_b, q, partial_ref, sum_b_ref)

    strips.for_each(add)
    sum_a_ref[...] = jnp.sum(partial_ref[...], 0, keepdims=True)


def _reflect(
    a_ref: Any, b_ref: Any, mean_a_ref: Any, mean_b_ref: Any, z_ref: Any, relaxation_ref: Any,
    new_a_ref: Any, new_b_ref: Any, output_ref: Any, squared_ref: Any, sum_a_ref: Any, sum_b_ref: Any,
    columns_ref: Any, coefficients_ref: Any, rows_ref: Any, partial_ref: Any,
    *, q: int, strip: int,
) -> None:  # fmt: skip
    strips = Strips(a_ref, b_ref, strip)
    _clear(columns_ref, rows_ref, partial_ref)

    def load(here: Any, lanes: Any) -> tuple[Array, ...]:
        means = mean_a_ref[0:1, lanes], mean_b_ref[here, lanes]
        return *strips.load(here, lanes), *(x.astype(jnp.float32) for x in means)

    def norms(lanes: Any, i: Array, _: None) -> None:
        a, b, mean_a, mean_b = load(strips.rows(i), lanes)
        _add_norms(columns_ref, strips.rows(i), 2 * mean_a - a, 2 * mean_b - b)

    strips.for_each(norms)
    *found, output_ref[...] = _solve(columns_ref, z_ref)
    _to_columns(rows_ref, coefficients_ref, (*found, relaxation_ref[...].astype(jnp.float32)))

    def update(lanes: Any, i: Array, _: None) -> None:
        here = strips.rows(i)
        c, e, step_a, step_b, relaxation = _coefficients(coefficients_ref, here, 5)
        a, b, mean_a, mean_b = load(here, lanes)
        u, v = 2 * mean_a - a, 2 * mean_b - b
        move_a = strips.first_component(lanes, (u - mean_a) + c * u + e * v, step_a)
        move_b = strips.first_component(lanes, (v - mean_b) + c * v + e * u, step_b)
        rate = 2 * relaxation
        new_a, new_b = a + rate * move_a, b + rate * move_b
        new_a_ref[here, lanes] = new_a.astype(new_a_ref.dtype)
        new_b_ref[here, lanes] = new_b.astype(new_b_ref.dtype)
        columns_ref[here, 2:3] += jnp.sum(jnp.square(move_a) + jnp.square(move_b), -1, keepdims=True)
        _add_sums(strips, i, lanes, new_a, new_b, q, partial_ref, sum_b_ref)

    strips.for_each(update)
    squared_ref[...] = columns_ref[...].T[2:3]
    sum_a_ref[...] = jnp.sum(partial_ref[...], 0, keepdims=True)


def _displace(
    a_ref: Any, b_ref: Any, z_ref: Any,
    c_ref: Any, e_ref: Any, step_a_ref: Any, step_b_ref: Any, output_ref: Any, sum_a_ref: Any, sum_b_ref: Any,
    columns_ref: Any, coefficients_ref: Any, rows_ref: Any, partial_ref: Any,
    *, q: int, strip: int,
) -> None:  # fmt: skip
    strips = Strips(a_ref, b_ref, strip)
    _clear(columns_ref, rows_ref, partial_ref)

    def norms(lanes: Any, i: Array, _: None) -> None:
        here = strips.rows(i)
        _add_norms(columns_ref, here, *strips.load(here, lanes))

    strips.for_each(norms)
    c_ref[...], e_ref[...], step_a_ref[...], step_b_ref[...], output_ref[...] = solved = _solve(
        columns_ref, z_ref
    )
    _to_columns(rows_ref, coefficients_ref, solved[:4])
    _add_reflected(strips, coefficients_ref, q, partial_ref, sum_a_ref, sum_b_ref)


def _leave(
    a_ref: Any, b_ref: Any, mean_a_ref: Any, mean_b_ref: Any,
    c_ref: Any, e_ref: Any, step_a_ref: Any, step_b_ref: Any, z_ref: Any, relaxation_ref: Any,
    new_a_ref: Any, new_b_ref: Any, squared_ref: Any,
    new_c_ref: Any, new_e_ref: Any, new_step_a_ref: Any, new_step_b_ref: Any, output_ref: Any,
    sum_a_ref: Any, sum_b_ref: Any,
    columns_ref: Any, coefficients_ref: Any, rows_ref: Any, partial_ref: Any,
    *, q: int, strip: int,
) -> None:  # fmt: skip
    strips = Strips(a_ref, b_ref, strip)
    _clear(columns_ref, rows_ref, partial_ref)
    given = (x[...].astype(jnp.float32) for x in (c_ref, e_ref, step_a_ref, step_b_ref, relaxation_ref))
    _to_columns(rows_ref, coefficients_ref, given)

    def update(lanes: Any, i: Array, _: None) -> None:
        here = strips.rows(i)
        c, e, step_a, step_b, relaxation = _coefficients(coefficients_ref, here, 5)
        rate = 2 * relaxation
        a, b = strips.load(here, lanes)
        mean_a, mean_b = (x.astype(jnp.float32) for x in (mean_a_ref[0:1, lanes], mean_b_ref[here, lanes]))
        move_a = strips.first_component(lanes, (mean_a - a) - (c * a + e * b), -step_a)
        move_b = strips.first_component(lanes, (mean_b - b) - (c * b + e * a), -step_b)
        new_a = (a + rate * move_a).astype(new_a_ref.dtype)
        new_b = (b + rate * move_b).astype(new_b_ref.dtype)
        new_a_ref[here, lanes], new_b_ref[here, lanes] = new_a, new_b
        _add_norms(columns_ref, here, new_a.astype(jnp.float32), new_b.astype(jnp.float32))
        columns_ref[here, 2:3] += jnp.sum(jnp.square(move_a) + jnp.square(move_b), -1, keepdims=True)

    strips.for_each(update)
    squared_ref[...] = columns_ref[...].T[2:3]
    new_c_ref[...], new_e_ref[...], new_step_a_ref[...], new_step_b_ref[...], output_ref[...] = solved = (
        _solve(columns_ref, z_ref)
    )
    _to_columns(rows_ref, coefficients_ref, solved[:4])
    moved = Strips(new_a_ref, new_b_ref, strip)
    _add_reflected(moved, coefficients_ref, q, partial_ref, sum_a_ref, sum_b_ref)
