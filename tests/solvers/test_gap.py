"""The gap of the compressed form is as exact in float32 as that of the expanded one, however small it is."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_prim as pjp
from pjax_prim.primitives import project_dot_p, project_linear_p

from .problems import SMALL, normal


def linear(params: Any, x: Any, target: Any) -> Any:
    return pjp.equality(x @ params["w"] + params["b"], target)


def regression(rows: int, size: float) -> tuple[Any, ...]:
    """Inputs of any size: those far larger than the weights hide what they would have moved by."""
    x, w = size * normal(0, rows, 5), normal(1, 5, 4) / size
    return {"w": w, "b": jnp.zeros(4)}, x, x @ w + 0.3 * normal(2, rows, 4)


def nearly_solved() -> tuple[Any, ...]:
    params, x, _ = SMALL.arguments
    hidden = jax.nn.relu(x @ params["w"] + params["b"])
    output = hidden @ params["out"]
    return params, x, output + 1e-3 * normal(3, *output.shape)


CASES: dict[str, tuple[Callable[..., Any], Callable[[], tuple[Any, ...]]]] = {
    "one row": (linear, lambda: regression(1, 1.0)),
    "one large row": (linear, lambda: regression(1, 100.0)),
    "rows": (linear, lambda: regression(3, 1.0)),
    "nearly solved": (SMALL.fn, nearly_solved),
}


@pytest.mark.parametrize("name", CASES)
def test_small_gaps_in_single_precision(name: str) -> None:
    fn, make = CASES[name]
    arguments = make()

    def gap(form: Any, dtype: str, steps: int) -> float:
        cast = jax.tree.map(lambda x: x.astype(dtype), arguments)
        solver = pjp.AlternatingProjections(form=form)
        return float(pjp.solve(fn, *cast, solver=solver, max_steps=steps).stats["gap"])

    for steps in (1, 2, 5, 20, 100):
        exact = gap("expanded", "float64", steps)
        np.testing.assert_allclose(gap("compressed", "float64", steps), exact, rtol=1e-7, atol=1e-12)
        # What is left is the rounding of the states, of about 1 in size.
        np.testing.assert_allclose(gap("compressed", "float32", steps), exact, rtol=1e-3, atol=3e-7)


def test_a_gap_is_not_zero_where_it_is_below_what_sums_resolve() -> None:
    """Data a thousand times as large as the weights: a step moves these, and all but nothing else."""
    params, x, target = jax.tree.map(lambda x: x.astype("float32"), regression(1, 1000.0))
    solver = pjp.AlternatingProjections()
    found = pjp.solve(linear, params, x, target, solver=solver, max_steps=1)
    exact = pjp.solve(
        linear, params, x, target, solver=pjp.AlternatingProjections(form="expanded"), max_steps=1
    )
    for node, gap in exact.stats["gap_per_node"].items():
        np.testing.assert_allclose(found.stats["gap_per_node"][node], gap, rtol=1e-3, atol=1e-8)


ALIKE = [
    (40, 30, 1.0, 1.0),
    (300, 200, 1e-2, 0.1),
    pytest.param(300, 200, 1e-4, 1e-2, marks=pytest.mark.slow),
    (64, 1, 1e-4, 1.0),
    (30, 20, 0.0, 1.0),
]


@pytest.mark.parametrize(("rows", "columns", "apart", "residual"), ALIKE)
@pytest.mark.parametrize("wanted", [(True, True), (False, True)])
def test_copies_that_move_nearly_alike(
    rows: int, columns: int, apart: float, residual: float, wanted: tuple[bool, bool]
) -> None:
    """The distance from their means is far below the lengths of their moves."""
    inputs = 7
    a, b = (
        normal(i, 1, inputs) + apart * normal(i + 2, size, inputs) for i, size in ((0, rows), (1, columns))
    )
    z = a @ b.T + residual * (1 + apart * normal(4, rows, columns))
    a, b, z = (x.astype("float32").astype("float64") for x in (a, b, z))
    copies = (
        jnp.broadcast_to(a[:, None], (rows, columns, inputs)),
        jnp.broadcast_to(b, (rows, columns, inputs)),
    )
    exact = 0.0
    for axis, (old, new, want) in enumerate(zip(copies, project_dot_p.bind(*copies, z), wanted, strict=True)):
        moves = new - old
        exact += float(jnp.sum(jnp.square(moves - want * jnp.mean(moves, 1 - axis, keepdims=True))))
    for dtype, digits in (("float64", 1e-9), ("float32", 1e-3)):
        *_, moved, scatter = project_linear_p.bind(
            *(x.astype(dtype) for x in (a, b, z)), wanted=wanted, precision="highest",
            operand_dtype=jnp.dtype(dtype), scatter="formed",
        )  # fmt: skip
        eps = float(jnp.finfo(dtype).eps)
        if rows * columns * inputs <= 2**16:  # few: their differences are formed
            np.testing.assert_allclose(scatter, exact, rtol=digits, atol=100 * eps**2 * float(moved))
        else:  # what the sums cannot resolve is not taken for zero
            floor = (2 * eps if wanted[0] else eps) * float(moved) / 2
            np.testing.assert_allclose(scatter, exact, rtol=digits, atol=30 * eps * float(moved))
            assert float(scatter) >= floor or exact > floor


def test_a_difference_of_sums_is_never_taken_for_zero() -> None:
    """A constant image and a constant filter: all copies of an element move alike."""
    image, kernel = jnp.ones((1, 1, 9, 9), "float32"), jnp.ones((1, 1, 2, 2), "float32")

    def fn(kernel: Any) -> Any:
        return pjp.equality(
            jax.lax.conv(image, kernel, (2, 2), "VALID"), jnp.full((1, 1, 4, 4), 5.0, "float32")
        )

    graph = pjp.constraint_graph(fn)(kernel)
    (constraint,) = (node.constraint for node in graph.nodes if node.kind == "convolution")
    projected = constraint.project_average(
        (image, kernel), jnp.full((1, 1, 4, 4), 5.0, "float32"), (), (True, True)
    )
    # Of the image each element has one copy, which is where its mean is.
    assert 0 < float(projected.scatter) < 1e-6 * float(projected.moved)
