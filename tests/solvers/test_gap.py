"""The gap of the compressed form is as exact in float32 as that of the expanded one, however small it is."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_prim as pjp

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


CASES = {
    "one row": (linear, regression(1, 1.0)),
    "one large row": (linear, regression(1, 100.0)),
    "rows": (linear, regression(3, 1.0)),
    "nearly solved": (SMALL.fn, nearly_solved()),
}


@pytest.mark.parametrize("name", CASES)
def test_small_gaps_in_single_precision(name: str) -> None:
    fn, arguments = CASES[name]

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
