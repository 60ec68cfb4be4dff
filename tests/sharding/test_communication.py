"""What a step exchanges between devices, read from the compiled program."""

from collections import Counter
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from pjax_prim.sharding import Collective, Plan, collectives, make_mesh, make_plan

import pjax_prim as pjp
from pjax_prim.models import MLP

pytestmark = pytest.mark.optimised

B, FEATURES, WIDTHS, CLASSES = 24, 10, (20, 28), 12
SIZES = (FEATURES, *WIDTHS, CLASSES)
DATA, MODEL = 4, 2
SOLVERS: dict[str, pjp.AbstractSolver] = {
    "ap": pjp.AlternatingProjections(),
    "ap-expanded": pjp.AlternatingProjections(form="expanded"),
    "cp": pjp.CyclicProjections(),
    "dr": pjp.DouglasRachford(),
    "dm": pjp.DifferenceMap(),
    "ar": pjp.AlternatingReflections(),
}


def loss(model: Any, x: Any, labels: Any) -> Any:
    return pjp.cross_entropy(jax.vmap(model)(x), labels)


def plan_of(solver: str | pjp.AbstractSolver, mesh: str) -> Plan:
    model = MLP(FEATURES, CLASSES, WIDTHS, dtype=jnp.float32, key=jax.random.key(0))
    x = jax.ShapeDtypeStruct((B, FEATURES), jnp.float32)
    labels = jax.ShapeDtypeStruct((B,), jnp.int32)
    chosen = SOLVERS[solver] if isinstance(solver, str) else solver
    return make_plan(loss, model, x, labels, solver=chosen, mesh=make_mesh(mesh))


def step_of(plan: Plan) -> Any:
    return plan.step.lower(plan.abstract_state(), plan.abstract_arguments()[1]).compile()


@cache
def compiled(solver: str, mesh: str = f"data={DATA},model={MODEL}") -> Any:
    return step_of(plan_of(solver, mesh))


def exchanged(solver: str) -> list[Collective]:
    return collectives(compiled(solver).as_text())


def matrices(found: list[Collective]) -> list[tuple[int, ...]]:
    """The shapes of all arrays of more than one axis, without axes of length 1."""
    shapes = (tuple(n for n in shape if n > 1) for x in found for shape in x.arrays)
    return sorted(shape for shape in shapes if len(shape) > 1)


def expected() -> list[tuple[int, ...]]:
    """The matrices of a step, as docs/sharding.md derives them."""
    rows, layers = B // DATA, list(zip(SIZES, SIZES[1:], strict=False))
    inner = layers[1:]  # the data need no mean back, and every device has its examples whole
    gathered = [(rows, k) for k, _ in inner] + [(rows, CLASSES)]
    returned = [(rows, k) for k, _ in inner]
    weights = [(m // MODEL, k) for k, m in layers]
    return sorted(gathered + returned + weights)


@pytest.mark.parametrize(
    "solver", ["ap", "ap-expanded", *(pytest.param(x, marks=pytest.mark.slow) for x in ("dr", "dm"))]
)
def test_matrices_are_those_derived_on_paper(solver: str) -> None:
    found = exchanged(solver)
    assert matrices(found) == expected()
    whole = sum(4 * int(np.prod(shape)) for shape in expected())
    vectors = sum(x.bytes for x in found) - whole
    rows, columns = B // DATA, max(SIZES) // MODEL
    # Means of coefficients and steps, biases, and sums of squares: vectors of rows or of columns.
    assert 0 < vectors <= 4 * len(SIZES) * (5 * rows + 5 * columns + 16)


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", [pjp.Anderson, pjp.Restarted, pjp.AdaptiveMetric])
def test_a_memory_lies_as_the_state_does(wrapper: Any) -> None:
    """Of what a wrapper remembers nothing moves but inner products, in the collectives that are there."""
    solver = wrapper(SOLVERS["ap"])
    plan = plan_of(solver, f"data={DATA},model={MODEL}")
    found = collectives(step_of(plan).as_text())
    memory, kinds = getattr(solver, "memory", 0), Counter(matrices(found))
    kinds.subtract(matrices(exchanged("ap")))
    assert {shape for shape, count in kinds.items() if count} <= {(memory, memory)}
    assert len(found) <= len(exchanged("ap")) + 1 and not any(x.looped for x in found)
    specs = {x.spec for x in jax.tree.leaves(plan.placement.state)}
    large = [x for x in jax.tree.leaves(plan.abstract_state().memory) if x.size > len(plan.graph.nodes)]
    assert {x.sharding.spec for x in large} <= specs | {P(None, *spec) for spec in specs}
    assert bool(large) == (wrapper is not pjp.AdaptiveMetric)


@pytest.mark.parametrize(
    "solver", [pytest.param(x, marks=[pytest.mark.slow] * (x in ("ar", "dm"))) for x in SOLVERS]
)
def test_nothing_large_is_gathered(solver: str) -> None:
    found = exchanged(solver)
    weights = {frozenset(pair) for pair in zip(SIZES, SIZES[1:], strict=False)}
    for x in found:
        assert not x.looped, f"{x} would happen again and again"
        for shape in x.arrays:
            dims = [n for n in shape if n > 1]
            assert len(dims) <= 2, f"{x} moves copies"
            assert frozenset(dims) not in weights, f"{x} moves a whole weight matrix"
            assert B not in dims, f"{x} gathers the batch"


@pytest.mark.parametrize("solver", SOLVERS)
def test_collectives_of_a_layer(solver: str) -> None:
    layers = len(SIZES) - 1
    sets = 2 if solver != "cp" else 2 * layers
    bound = 4 * layers + 2 * sets
    assert len(exchanged(solver)) <= bound


@pytest.mark.parametrize(
    ("mesh", "parts"),
    [
        ("data=4,model=2", 8),
        *(
            pytest.param(*row, marks=pytest.mark.slow)
            for row in (("data=2,stage=4", 2), ("data=4,stage=2", 4))
        ),
    ],
)
def test_expanded_state_is_divided_by_both_axes(mesh: str, parts: int) -> None:
    def state_bytes(mesh: str) -> int:
        memory = compiled("dr", mesh).memory_analysis()
        return int(memory.alias_size_in_bytes)  # the donated state

    whole = state_bytes("data=1,model=1,stage=8")  # every device holds all of it
    plan = plan_of("dr", "data=4,model=2")
    copies = [
        array
        for node, arrays in zip(plan.graph.nodes, plan.abstract_state(), strict=True)
        if node.kind == "linear"
        for array in arrays
    ]
    for array in copies:
        assert np.prod(array.sharding.shard_shape(array.shape)) * 8 == np.prod(array.shape)
    assert state_bytes(mesh) == pytest.approx(whole / parts, rel=0.1)


def test_the_step_takes_its_state_s_memory() -> None:
    memory = compiled("dr").memory_analysis()
    plan = plan_of("dr", f"data={DATA},model={MODEL}")
    held = sum(row.bytes_per_device for row in plan.rows() if row.kind != "data")
    assert memory.alias_size_in_bytes == held


def test_a_plan_prints_what_is_divided_how() -> None:
    text = str(plan_of("dr", "data=4,model=2"))
    rows = [line.split() for line in text.splitlines()]
    assert text.startswith("mesh of 8 devices: data=4, fsdp=1, stage=1, model=2")
    assert ["layers.0.weight", "parameter", "float32[20,", "10]", "P('model',", "None)", "400"] in rows
    assert f"{24 * 20 * 10 * 4 // 8:,}" in text  # copies of the first product


def test_reading_of_compiled_text() -> None:
    text = """
%body (p: f32[4]) -> f32[4] {
  %a = f32[4]{0} all-reduce(%p), replica_groups={{0,1},{2,3}}, to_apply=%add
}
%all-reduce-scatter.1 (q: f32[8,4]) -> f32[2,4] {
  %b = f32[8,4]{1,0} all-reduce(%q), replica_groups=[2,4]<=[8], to_apply=%add
}
ENTRY %main (x: f32[4]) -> f32[4] {
  %w = f32[4]{0} while(%x), condition=%cond, body=%body
  %c = (bf16[2]{0}, bf16[8]{0}) all-gather-start(%x), replica_groups=mesh['a'=4,'b'=2] {'a'}
  %d = f32[8]{0} collective-permute(%x), source_target_pairs={{0,1},{1,0}}
  %e = (f32[], s32[3]{0}) all-reduce(%x, %x), replica_groups=[8,1]<=[8]
  %f = f32[16]{0} reduce-scatter(%x), replica_groups={{0,1,2,3}}, dimensions={0}
  %g = bf16[8]{0} all-gather(%x), replica_groups=[2,4]<=[8], frontend_attributes={chain_id="1"}
  %h = bf16[8]{0} all-gather(%x), replica_groups=[2,4]<=[8], frontend_attributes={chain_id="1"}
}
"""
    found = [(x.kind, x.bytes, x.devices, x.looped) for x in collectives(text)]
    assert found == [
        ("all-reduce", 16, 2, True),
        ("reduce-scatter", 128, 4, False),
        ("all-gather", 16, 4, False),
        ("collective-permute", 32, 2, False),
        ("reduce-scatter", 256, 4, False),
        ("all-gather", 16, 4, False),
    ]
    assert [x.sent for x in collectives(text)[:2]] == [16, 96]


def test_inputs_and_rules_are_followed() -> None:
    model = {"w": jnp.ones((8, 6)), "v": jnp.ones((6, 4))}
    x, y = jnp.ones((5, 8)), jnp.ones((5, 4))

    def regression(params: Any, x: Any, y: Any) -> Any:
        return pjp.squared_error(jax.nn.relu(x @ params["w"]) @ params["v"], y)

    settings: dict[str, Any] = {"solver": pjp.AlternatingProjections(), "mesh": make_mesh("data=4,model=2")}
    with pytest.raises(pjp.ArgumentError, match="array 0 has 5 examples, which mesh axis data=4 does not"):
        make_plan(regression, model, x, y, **settings)
    plan = make_plan(
        regression, model, x, y, inputs=[P(None, "data"), P()], rules=[("w", P("data", None))], **settings
    )
    assert [s.spec for s in plan.data] == [P(None, "data"), P()]
    shardings = plan.shardings(model, x, y)[0]
    assert shardings["w"].spec == P("data", None) and shardings["v"].spec == P(None, "model")
    with pytest.raises(pjp.ArgumentError, match="inputs: expected a spec for each of 2 arrays, given 1"):
        make_plan(regression, model, x, y, inputs=[P()], **settings)
    with pytest.raises(pjp.ArgumentError, match=r"inputs\[1\]: axis 0 of length 5 is not divided by model=2"):
        make_plan(regression, model, x, y, inputs=[P(), P("model")], **settings)
    sharded = plan.shard(model, x, y)
    assert eqx.tree_equal(jax.device_get(sharded), jax.device_get((model, x, y)))
