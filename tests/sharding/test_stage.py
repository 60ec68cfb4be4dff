"""A stack of layers divided over devices by depth: every stage projects at the same time."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pjax_prim.sharding import Plan, collectives, make_mesh, make_plan

import pjax_prim as pjp

pytestmark = pytest.mark.optimised

LAYERS, WIDTH, B, CLASSES = 8, 6, 4, 3
SOLVERS: dict[str, pjp.AbstractSolver] = {"ap": pjp.AlternatingProjections(), "dr": pjp.DouglasRachford()}
STEPS = 4


def loss(params: dict[str, Any], x: Any, labels: Any) -> Any:
    def layer(h: Any, params: Any) -> tuple[Any, None]:
        weight, bias = params
        return jax.nn.relu(h @ weight + bias), None

    h, _ = jax.lax.scan(layer, x, (params["w"], params["b"]))
    return pjp.cross_entropy(h @ params["out"], labels)


def arguments() -> tuple[Any, ...]:
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "w": jax.random.normal(keys[0], (LAYERS, WIDTH, WIDTH)) * 0.6,
        "b": jnp.full((LAYERS, WIDTH), 0.1),
        "out": jax.random.normal(keys[1], (WIDTH, CLASSES)),
    }
    return params, jax.random.normal(keys[2], (B, WIDTH)), jnp.arange(B) % CLASSES


def plan_of(solver: str, mesh: str | None) -> Plan:
    devices = make_mesh("data=1", jax.devices()[:1]) if mesh is None else make_mesh(mesh)
    return make_plan(loss, *arguments(), solver=SOLVERS[solver], mesh=devices)


@cache
def start(solver: str) -> Any:
    params, *data = arguments()
    plan = plan_of(solver, None)
    return jax.device_get(plan.init(jax.tree.leaves(params), data))


def run(solver: str, mesh: str | None) -> Any:
    plan = plan_of(solver, mesh)
    _, *data = plan.shard(*arguments())
    state = jax.device_put(start(solver), plan.placement.state)
    for _ in range(STEPS):
        state, gaps = plan.step(state, data)
    return jax.device_get((state, gaps))


@pytest.mark.parametrize("solver", ["ap", pytest.param("dr", marks=pytest.mark.slow)])
def test_values_do_not_depend_on_the_stages(solver: str) -> None:
    alone, divided = run(solver, None), run(solver, "stage=4,data=2")
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(divided), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)
    moved = [np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (alone[0], start(solver))), strict=True)]
    assert any(moved)


@pytest.mark.parametrize("solver", [pytest.param("ap", marks=pytest.mark.slow), "dr"])
def test_only_boundaries_are_exchanged(solver: str) -> None:
    """However many stages: no stage waits for another, and none passes on more than its boundary."""
    kinds = {}
    for stages in (2, 4, 8):
        plan = plan_of(solver, f"stage={stages},data={8 // stages}")
        compiled: Any = plan.step
        text = compiled.lower(plan.abstract_state(), plan.abstract_arguments()[1]).compile().as_text()
        loops = [line for line in text.splitlines() if " while(" in line]
        assert all("pjax_prox_cross_entropy" in line for line in loops), "stages would wait for each other"
        found = [x for x in collectives(text) if x.devices > 1]
        rows = B * stages // 8
        for x in found:
            assert not x.looped and x.kind in ("collective-permute", "all-reduce"), x
            for shape in x.arrays if x.kind == "collective-permute" else ():
                assert np.prod(shape) <= rows * WIDTH, f"{x} moves more than a boundary"
        kinds[stages] = sum(x.kind == "collective-permute" for x in found)
    # A value at each boundary and back, in each of the two sets.
    assert 0 < min(kinds.values()) and max(kinds.values()) <= 4


def test_what_a_stage_holds() -> None:
    plan = plan_of("dr", "stage=8")
    held = {row.name: (row.shape, (*row.spec, None)[0], row.bytes_per_device) for row in plan.rows()}
    assert held["w"] == ((LAYERS, WIDTH, WIDTH), "stage", 8 * WIDTH * WIDTH)
    assert held["linear_0[0]"] == ((LAYERS, B, WIDTH, WIDTH), "stage", 8 * B * WIDTH * WIDTH)
    assert held["out"][1] is None
