"""Every projection returns the nearest point: compared with the minimisers of `cases`.

The excess of a returned point is its squared distance to the query, with the output evaluated
in float64, less the least one. It may be `TOLERANCE` of the least one, or what rounding the
query to the dtype alone can cause: second order in that rounding on smooth sets, first order
at an edge. In double precision the formula counts; single and half precision are compiled as for users.
"""

import zlib
from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pjax_prim.primitives import project_scalar
from pjax_prim.primitives.scalar import Mode, displace_reference

from .cases import CASES, Case, Rows, is_rare, norm2

TOLERANCE = {"float64": 1e-9, "float32": 1e-5, "bfloat16": 1e-5}
UNITS = 16  # roundings of the query, for an operation of a few terms


@cache
def batched(case: Case) -> Callable[..., tuple[jax.Array, ...]]:
    """The projection of many queries, compiled."""
    return jax.jit(jax.vmap(case.project))


def excess_over_bound(case: Case, rows: Rows, dtype: str) -> np.ndarray:
    """The excess in terms of what is allowed, of a batch of queries rounded to a dtype."""
    operands = [jnp.asarray(row, dtype) for row in rows]
    query = tuple(np.asarray(x, np.float64) for x in operands)
    results = batched(case)(*operands)
    assert [x.dtype for x in results] == [operands[i].dtype for i in range(case.moved)]
    outputs = tuple(np.asarray(x, np.float64) for x in results)
    assert all(np.isfinite(x).all() for x in outputs)

    eps = float(jnp.finfo(dtype).eps)
    moved = (*outputs, *query[case.moved :])
    size = np.sqrt(norm2(*query)) + case.size(*query) + case.size(*moved)
    unit = UNITS * eps * size
    best = case.best(*query)
    excess = case.cost(query, outputs, unit) - best
    allowed = TOLERANCE[dtype] * best + unit**2 + case.kinked * unit * np.sqrt(best)
    assert (excess >= -allowed).all(), "the slow minimiser was beaten"
    return excess / np.maximum(allowed, 1e-300)


def both(first: Rows, second: Rows) -> Rows:
    """Two batches as one."""
    return tuple(np.concatenate(pair) for pair in zip(first, second, strict=True))


LARGEST = float(np.finfo(np.float32).max)
EXTREMES = (0.0, -0.0, 1e-45, 1e-38, 1e-20, 1.0, 1e19, 2e19, 1e30, LARGEST)
STEPS = np.array([0.0, 1e-45, 1e-38, 1e-20, 1.0, 1e6], np.float32)


def never_nan(case: Case, count: int, n: int) -> None:
    """Any finite float32 query gives no NaN, at the limits of the dtype too."""
    rng = np.random.default_rng(0)
    values = np.array([*EXTREMES, *(-x for x in EXTREMES)], np.float32)
    for _ in range(-(-4000 // count)):  # at the shape that is compiled
        query = [
            row.astype(np.float32)
            if kind in ("labels", "weights", "share")
            else rng.choice(STEPS if kind == "step" else values, row.shape)
            for kind, row in zip(case.operands, case.random(rng, count, n), strict=True)
        ]
        for x in batched(case)(*query):
            assert not np.isnan(x).any()


@pytest.mark.optimised
@pytest.mark.parametrize("function", ["abs", "softplus", "gelu"])
def test_costs_of_the_longest_queries_are_compared(function: str) -> None:
    """At numbers whose inverses a CPU takes for zero the functions are the identity."""
    query = jnp.array([2e38, 1e38, 3e38], jnp.float32), jnp.array([1e38, 2e38, 1e38], jnp.float32)
    project = jax.jit(jax.vmap(partial(project_scalar, function=function)))
    np.testing.assert_allclose(project(*query), [1.5e38, 1.5e38, 2e38], rtol=1e-6)


@pytest.mark.parametrize("stops", [False, True])
def test_straight_code_has_no_loop(stops: bool) -> None:
    solve = partial(displace_reference, function="tanh", parameters=(), mode=Mode(stops, straight=True))
    text = str(jax.make_jaxpr(solve)(jnp.ones(3), jnp.ones(3)))
    assert "while" not in text and "scan" not in text


MORE_POWERS = (
    "integer_pow,parameters=(3.0,)",
    "integer_pow,parameters=(4.0,)",
    "integer_pow,parameters=(-3.0,)",
    "pow,parameters=(2.5,)",
    "pow,parameters=(0.3,)",
)
"""Beside those there are an odd and an even integer and another number of either sign."""


def sizes_of(case: Case, dtype: str) -> tuple[int, ...]:
    """bfloat16 is computed in float32, float32 as float64, whose sizes are all there."""
    return {"float64": case.sizes, "float32": case.sizes[:1] + case.sizes[2:], "bfloat16": case.sizes[-1:]}[
        dtype
    ]


def is_slow(case: Case, dtype: str) -> bool:
    # One piece of code widens for all scalar functions: abs shows it, the others if asked for.
    return (
        (dtype == "float32" and is_rare(case))
        or (dtype == "bfloat16" and "function=" in str(case) and "function=abs" not in str(case))
        or any(f"function={power}" in str(case) for power in MORE_POWERS)
    )


@pytest.mark.parametrize(
    ("case", "dtype", "sizes"),
    [
        pytest.param(
            case,
            dtype,
            sizes,
            id=f"{case}-{dtype}" + ("-another size" if slow else ""),
            marks=[
                *([pytest.mark.optimised] if dtype != "float64" else []),
                *([pytest.mark.slow] if slow or is_slow(case, dtype) else []),
            ],
        )
        for case in CASES
        for dtype, sizes, slow in (
            *((dtype, sizes_of(case, dtype), False) for dtype in ("float64", "float32", "bfloat16")),
            *([("float32", case.sizes[1:2], True)] if len(case.sizes) > 2 else []),
        )
    ],
)
def test_nearest_point(case: Case, dtype: str, sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(zlib.crc32(f"{case} {dtype}".encode()))
    for n in case.sizes if dtype != "bfloat16" else case.sizes[-1:]:
        count = case.count if n == case.sizes[-1] else 200
        rows = both(case.random(rng, count, n), case.hostile(rng, min(500, count), n))
        if n not in sizes:
            continue  # the same queries for the next, whatever is asked for
        assert excess_over_bound(case, rows, dtype).max() <= 1
        if dtype == "float32":
            never_nan(case, len(rows[0]), n)


@pytest.mark.optimised
@pytest.mark.parametrize(
    "case",
    [
        # Many descents of long vectors, each as those of short ones.
        pytest.param(case, id=str(case), marks=pytest.mark.slow if case.name == "project_softmax" else ())
        for case in CASES
        if "vector" in case.operands
    ],
)
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_nearest_point_of_long_vectors(case: Case, dtype: str) -> None:
    n = case.long if case.name != "prox_cross_entropy" else 300  # the minimiser is quadratic in n
    rng = np.random.default_rng(0)
    rows = both(case.random(rng, 8, n), case.hostile(rng, 10, n))
    assert excess_over_bound(case, rows, dtype).max() <= 1
