"""Products whose parameter lies still: what moves instead, and that values do not depend on it."""

from collections import Counter
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P
from pjax_prim.sharding import Plan, collectives, make_mesh, make_plan

import pjax_prim as pjp
from pjax_prim.models import MLP as Network
from tests.solvers.problems import Problem, normal

from .problems import classify
from .test_equal_to_one_device import check

B = 16
LABELS = jnp.arange(B) % 10


def matrix_first(params: dict[str, Any], x: Any, labels: Any) -> Any:
    """The parameter is the left operand, and the last layer contracts its first axis."""
    h = jax.nn.relu(params["first"] @ x.T)
    return pjp.cross_entropy(jax.nn.relu(params["second"] @ h).T @ params["out"], labels)


def stacked(params: dict[str, Any], x: Any, labels: Any) -> Any:
    def layer(h: Any, w: Any) -> tuple[Any, None]:
        return jax.nn.relu(h @ w), None

    h, _ = jax.lax.scan(layer, x @ params["first"], params["stack"])
    return pjp.cross_entropy(h @ params["out"], labels)


WIDE = Problem(
    "wide", classify, lambda: (eqx.nn.MLP(8, 10, 64, 2, key=jax.random.key(0)), normal(1, B, 8), LABELS)
)
MATRIX_FIRST = Problem(
    "matrix_first",
    matrix_first,
    lambda: (
        {"first": normal(0, 64, 8), "second": normal(1, 96, 64) / 8, "out": normal(2, 96, 10) / 8},
        normal(3, B, 8),
        LABELS,
    ),
)
STACKED = Problem(
    "stacked",
    stacked,
    lambda: (
        {"first": normal(0, 8, 64), "stack": normal(1, 4, 64, 64) / 8, "out": normal(2, 64, 10) / 8},
        normal(3, B, 8),
        LABELS,
    ),
)


def still(plan: Plan) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Which operand lies still, and what divides it along the axis that is contracted."""
    sizes = plan.mesh.shape
    return {
        plan.graph.nodes[node].name: (x.side, tuple(name for name in x.contracted if sizes[name] > 1))
        for node, x in plan.placement.layouts
    }


AP = "alternating_projections_compressed"


@pytest.mark.parametrize(
    ("problem", "solver", "mesh", "expected"),
    [
        (WIDE, AP, "fsdp=4,model=2", {"linear_1": (1, ("fsdp",)), "linear_2": (1, ("fsdp",))}),
        (WIDE, AP, "fsdp=2,model=4", {"linear_1": (1, ("fsdp",)), "linear_2": (1, ("model",))}),
        (MATRIX_FIRST, AP, "data=2,fsdp=2,model=2", {"linear_1": (0, ("fsdp",))}),
        (STACKED, AP, "fsdp=2,model=2,stage=2", {"linear_1": (1, ("fsdp",))}),
        pytest.param(
            WIDE, "cyclic_projections_compressed", "fsdp=4,model=2",
            {"linear_1": (1, ("fsdp",)), "linear_2": (1, ("fsdp",))}, marks=pytest.mark.slow,
        ),
        pytest.param(
            WIDE, "adaptive_metric", "fsdp=4,model=2",
            {"linear_1": (1, ("fsdp",)), "linear_2": (1, ("fsdp",))}, marks=pytest.mark.slow,
        ),
        pytest.param(WIDE, AP, "data=2,model=4", {"linear_2": (1, ("model",))}, marks=pytest.mark.slow),
        pytest.param(WIDE, AP, "fsdp=8", {"linear_2": (1, ("fsdp",))}, marks=pytest.mark.slow),
    ],
    ids=lambda x: str(x) if isinstance(x, str | Problem) else "",
)  # fmt: skip
def test_values_are_those_of_one_device(problem: Problem, solver: str, mesh: str, expected: Any) -> None:
    assert still(check(problem, solver, mesh)) == expected


SIZES = (8, 64, 96, 12)


@cache
def plan_of(mesh: str, solver: pjp.AbstractSolver, rules: tuple[Any, ...] = ()) -> Plan:
    network = Network(SIZES[0], SIZES[-1], SIZES[1:-1], dtype=jnp.float32, key=jax.random.key(0))
    x = jax.ShapeDtypeStruct((B, SIZES[0]), jnp.float32)
    labels = jax.ShapeDtypeStruct((B,), jnp.int32)
    return make_plan(classify, network, x, labels, solver=solver, mesh=make_mesh(mesh), rules=rules)


@pytest.mark.optimised
def test_what_moves_is_what_the_paper_says() -> None:
    """The arrays of docs/sharding.md: of a product that leaves its weights, parts of rows and no weights."""
    data, model = 4, 2
    plan = plan_of(f"fsdp={data},model={model}", pjp.AlternatingProjections())
    assert still(plan) == {"linear_1": (1, ("fsdp",)), "linear_2": (1, ("fsdp",))}
    text = plan.step.lower(plan.abstract_state(), plan.abstract_arguments()[1]).compile().as_text()
    found = collectives(text)

    def of(kind: str) -> Counter[tuple[int, ...]]:
        shapes = (tuple(n for n in shape if n > 1) for x in found if x.kind == kind for shape in x.arrays)
        return Counter(shape for shape in shapes if len(shape) > 1 and shape != first)

    layers = [*zip(SIZES[1:], SIZES[2:], strict=False)]
    first = (SIZES[1] // model, SIZES[0])  # a small one is gathered, and its mean returned
    gathered = Counter([(B // data, SIZES[-1])])
    gathered += Counter((B, k // data) for k, _ in layers) + Counter((B, q // model) for _, q in layers)
    assert of("all-gather") == gathered
    # On TPUs each of these leaves every device its part of the rows (`test_aot.py`).
    summed = Counter((B, q // model) for _, q in layers) + Counter((B, k // data) for k, _ in layers)
    assert of("all-reduce") + of("reduce-scatter") == summed
    assert set(of("collective-permute")) <= {(B // n, k // m) for k, _ in layers for n, m in ((4, 2), (2, 4))}
    assert not any(x.looped for x in found)


def test_who_lies_still() -> None:
    """Products of more rows than it pays for, rules, and the expanded form leave everything as it was."""
    mesh = "fsdp=4,model=2"
    assert plan_of(mesh, pjp.DouglasRachford()).placement.layouts == ()
    ruled = plan_of(mesh, pjp.AlternatingProjections(), (("layers.*.weight", P("model", None)),))
    assert ruled.placement.layouts == ()
    plan = plan_of(mesh, pjp.AlternatingProjections())
    held = {row.name: row.spec for row in plan.rows() if row.kind == "parameter"}
    assert held["layers.1.weight"] == P("model", "fsdp")
    assert hash(plan.placement)  # `solve` takes it as a static argument
    many = make_plan(
        classify,
        Network(SIZES[0], SIZES[-1], SIZES[1:-1], dtype=jnp.float32, key=jax.random.key(0)),
        jax.ShapeDtypeStruct((1024, SIZES[0]), jnp.float32),
        jax.ShapeDtypeStruct((1024,), jnp.int32),
        solver=pjp.AlternatingProjections(),
        mesh=make_mesh(mesh),
    )
    assert many.placement.layouts == ()
