"""The golden numbers of `tests/data/projections.npz`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import pjax_prim as pjp

DATA = np.load(Path(__file__).parents[1] / "data" / "projections.npz")


def _quantize(case: str) -> Callable[..., Any]:
    levels, scale = case.split("_")
    return lambda a, z: pjp.project_quantize(a, z, int(levels), float(scale))


ROWS: dict[str, tuple[Callable[[str], Callable[..., Any]], tuple[str, ...], tuple[str, ...]]] = {
    "identity": (lambda _: pjp.project_identity, ("a", "z"), ("a_out",)),
    "sum": (lambda _: pjp.project_sum, ("a", "z"), ("a_out",)),
    "max": (lambda _: pjp.project_max, ("a", "z"), ("a_out",)),
    "dot": (lambda _: pjp.project_dot, ("a", "b", "z"), ("a_out", "b_out")),
    "quantize": (_quantize, ("a", "z"), ("a_out",)),
    "margin": (lambda _: pjp.project_margin, ("logits", "labels"), ("out",)),
    "cross_entropy": (
        lambda _: partial(pjp.prox_cross_entropy, lam=1.0), ("logits", "labels"), ("out",)
    ),
}  # fmt: skip
"""For each operation: its projection in a case, the operands, the expected results."""

KEYS = sorted({key.rsplit("/", 1)[0] for key in DATA.files if "fixed_point" not in key})


@pytest.mark.parametrize("key", KEYS)
def test_golden(key: str) -> None:
    operation, case = key.split("/")
    data = {name.rsplit("/", 1)[1]: DATA[name] for name in DATA.files if name.startswith(f"{key}/")}
    if operation == "sum_relu":
        results = pjp.project_sum_relu(tuple(data["inputs"]), data["y"])
        np.testing.assert_allclose(np.stack(results), data["out"], rtol=0, atol=1e-9)
        return
    make, operands, expected = ROWS[operation]
    results = jax.vmap(make(case))(*(data[name] for name in operands))
    results = results if isinstance(results, tuple) else (results,)
    for result, name in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, data[name], rtol=0, atol=1e-9)


def test_every_golden_operation_is_compared() -> None:
    assert {key.split("/")[0] for key in KEYS} == {*ROWS, "sum_relu"}
