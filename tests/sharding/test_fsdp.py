"""Parameters divided over `fsdp`: what is held, what is gathered, and that values do not depend on it."""

from collections import Counter
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from pjax_prim.sharding import Collective, Plan, collectives, make_mesh, make_plan
from pjax_prim.sharding.gathering import gathered_by_layer, stacked_axes

import pjax_prim as pjp
from pjax_prim.models import MLP as Network
from pjax_prim.training import Method, RunFolder, Task, TrainConfig, train
from pjax_prim.training.parts import Parts

from .problems import MLP, classify
from .test_communication import matrices
from .test_equal_to_one_device import check

LAYERS, WIDTH, INNER, CLASSES, B = 6, 16, 32, 8, 16


def model(key: jax.Array) -> dict[str, Any]:
    keys = jax.random.split(key, 4)
    shapes = {"in": (WIDTH, WIDTH), "up": (LAYERS, WIDTH, INNER), "down": (LAYERS, INNER, WIDTH),
              "out": (WIDTH, CLASSES)}  # fmt: skip
    made = {
        name: 0.2 * jax.random.normal(key, shape, jnp.float32)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    return {**made, "bias": jnp.zeros((LAYERS, INNER), jnp.float32)}


def loss(model: dict[str, Any], batch: Any, key: Any = None) -> Any:
    """A stack of layers in a loop; `in` is used twice, and the last layer by its transpose."""
    x, labels = batch

    def layer(h: Any, params: Any) -> tuple[Any, None]:
        up, down, bias = params
        return h + jax.nn.relu(h @ up + bias) @ down, None

    h = jnp.tanh(x @ model["in"]) @ model["in"]
    h, _ = jax.lax.scan(layer, h, (model["up"], model["down"], model["bias"]))
    return pjp.cross_entropy(jnp.matmul(model["out"].T, h.T).T, labels)


def batches() -> list[Any]:
    rng = np.random.default_rng(0)
    return [
        (
            rng.normal(size=(B, WIDTH)).astype(np.float32),
            rng.integers(0, CLASSES, B).astype(np.int32),
        )
        for _ in range(4)
    ]


TASK = Task(model=model, loss=loss, train=batches())


def config(mesh: str | None, **method: Any) -> TrainConfig:
    given = {"solver": "displacement", "learning_rate": 1e-2, **method}
    return TrainConfig(method=Method(**given), batches=6, mesh=mesh, average=0.9)


@pytest.mark.parametrize(
    ("solver", "mesh"),
    [
        ("displacement", "data=2,fsdp=2,model=2"),
        pytest.param("displacement", "fsdp=8", marks=pytest.mark.slow),
        pytest.param("adam", "data=2,fsdp=4", marks=pytest.mark.slow),
        pytest.param("ep", "data=2,fsdp=4", marks=pytest.mark.slow),
    ],
)
def test_losses_are_those_of_one_device(solver: str, mesh: str) -> None:
    method = {"solver": "ep", "learning_rate": None, "rate": 0.01} if solver == "ep" else {"solver": solver}
    expected, found = ([row["loss"] for row in train(TASK, config(x, **method)).rows] for x in (None, mesh))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert expected[0] != pytest.approx(expected[-1], rel=1e-2)


@pytest.mark.parametrize(
    ("solver", "mesh"),
    [
        ("displacement", "data=2,fsdp=4"),
        *(pytest.param(x, "data=2,fsdp=4", marks=pytest.mark.slow) for x in ("adam", "ap")),
    ],
)
def test_explicit_axes(solver: str, mesh: str) -> None:
    """Losses, and figures of an evaluation, on an explicit mesh that is set are those on an automatic one."""
    method = {"solver": solver, "learning_rate": None} if solver == "ap" else {"solver": solver}
    task = replace(TASK, evaluate={"test": TASK.train[:1]})
    expected = train(task, replace(config(mesh, **method), batches=2))
    explicit = f"{mesh},axis_type=explicit"
    with jax.set_mesh(make_mesh(explicit)):
        found = train(task, replace(config(explicit, **method), batches=2))
    for new, old in zip(found.rows, expected.rows, strict=True):
        assert new["loss"] == pytest.approx(old["loss"], rel=1e-5)
        assert new.get("test_loss") == pytest.approx(old.get("test_loss"), rel=1e-5)
    for new, old in zip(*(jax.tree.leaves(x.state.model) for x in (found, expected)), strict=True):
        assert new.sharding.spec == old.sharding.spec


def test_everything_of_a_parameter_is_divided() -> None:
    state = Parts.make(TASK, config("data=2,fsdp=4")).before()
    wanted = {
        "in": P("fsdp"),
        "up": P(None, None, "fsdp"),
        "down": P(None, "fsdp"),
        "out": P("fsdp"),
        "bias": P(),
    }
    for tree in (state.model, state.memory[0].mu, state.memory[0].nu, state.averaged):
        assert {name: x.sharding.spec for name, x in tree.items()} == wanted
    state = Parts.make(TASK, config("fsdp=4,model=2")).before()
    assert state.model["up"].sharding.spec == P(None, "model", "fsdp")


def exchanged(mesh: str, **method: Any) -> tuple[str, list[Collective]]:
    lowered, _ = Parts.make(TASK, config(mesh, **method)).lower()
    text = lowered.compile().as_text()
    return text, collectives(text)


@pytest.mark.optimised
@pytest.mark.parametrize("solver", ["displacement", pytest.param("adam", marks=pytest.mark.slow)])
def test_one_layer_is_gathered_at_a_time(solver: str) -> None:
    text, found = exchanged("fsdp=8", solver=solver)
    gathered = Counter(shape for x in found if x.kind == "all-gather" and x.looped for shape in x.arrays)
    # On the way there and on the way back.
    assert gathered == {(WIDTH, INNER): 2, (INNER, WIDTH): 2}
    for x in found:
        assert all(len(shape) <= 2 for shape in x.arrays), f"{x} moves a whole stack"
    for shape in ((LAYERS, WIDTH, INNER), (LAYERS, INNER, WIDTH)):
        assert f"[{','.join(map(str, shape))}]" not in text, "a stack is whole on a device"


def test_values_and_derivatives_through_every_call() -> None:
    """Gathering changes neither; it reaches into jitted functions, checkpoints and loops of loops."""
    mesh = make_mesh("fsdp=4,data=2")
    params = {
        "stack": jax.random.normal(jax.random.key(0), (2, 3, 4, 8)),
        "fixed": jax.random.normal(jax.random.key(1), (8, 4)),
        "branch": jax.random.normal(jax.random.key(2), (4, 4)),
    }
    specs = [P("fsdp"), P("fsdp"), P(None, None, None, "fsdp")]
    x = jax.random.normal(jax.random.key(3), (8, 4))

    def fn(params: Any, x: Any) -> Any:
        @jax.jit
        def mixed(h: Any, w: Any) -> Any:
            return jnp.tanh(h @ w)

        def inner(h: Any, w: Any) -> tuple[Any, None]:
            return jax.checkpoint(mixed)(h, w) @ params["fixed"], None

        def outer(h: Any, ws: Any) -> tuple[Any, None]:
            return jax.lax.scan(inner, h, ws)

        h, _ = jax.lax.scan(outer, x, params["stack"])
        h = jax.lax.cond(jnp.sum(h) > 0, lambda: h @ params["branch"], lambda: h - params["branch"][0])
        return jnp.mean(jnp.square(h)), h

    closed = jax.make_jaxpr(fn)(params, x)
    assert stacked_axes(closed, 3) == [0, 0, 2]
    leaves, structure = jax.tree.flatten(params)
    places = [jax.NamedSharding(mesh, spec) for spec in specs]
    divided = jax.tree.unflatten(structure, jax.device_put(leaves, places))
    fast = gathered_by_layer(fn, mesh, specs)
    for transform in (
        eqx.filter_value_and_grad,
        pjp.value_and_displacement,
    ):
        expected = eqx.filter_jit(transform(fn, has_aux=True))(params, x)
        found = eqx.filter_jit(transform(fast, has_aux=True))(divided, x)
        for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    assert "pjax_gather" in str(jax.make_jaxpr(fast)(params, x))


SIZES = (8, 16, 24, 8)


def plan_of(solver: str, mesh: str) -> Plan:
    network = Network(SIZES[0], SIZES[-1], SIZES[1:-1], dtype=jnp.float32, key=jax.random.key(0))
    x = jax.ShapeDtypeStruct((B, SIZES[0]), jnp.float32)
    labels = jax.ShapeDtypeStruct((B,), jnp.int32)
    kinds = {"ap": pjp.AlternatingProjections(), "dr": pjp.DouglasRachford()}
    return make_plan(classify, network, x, labels, solver=kinds[solver], mesh=make_mesh(mesh))


@pytest.mark.optimised
@pytest.mark.parametrize("solver", ["ap", pytest.param("dr", marks=pytest.mark.slow)])
def test_a_projection_step_gathers_and_returns_parameters(solver: str) -> None:
    """The matrices of docs/sharding.md: each weight there and back, and nothing else more than with
    `data`."""
    plan = plan_of(solver, "fsdp=4,model=2")
    compiled: Any = plan.step
    found = collectives(
        compiled.lower(plan.abstract_state(), plan.abstract_arguments()[1]).compile().as_text()
    )
    rows, layers = B // 4, list(zip(SIZES, SIZES[1:], strict=False))
    activations = [(rows, k) for k, _ in layers[1:]] * 2 + [(rows, SIZES[-1])]
    left = Counter(matrices(found)) - Counter(activations)
    # The CPU's compiler may gather one twice, as operands of two shapes.
    assert set(left) == {(m // 2, k) for k, m in layers} and set(left.values()) <= {2, 3}
    held = {row.name: (row.spec, row.bytes_per_device) for row in plan.rows() if row.kind == "parameter"}
    assert held["layers.0.weight"] == (P("model", "fsdp"), 4 * SIZES[0] * SIZES[1] // 8)
    assert held["layers.0.bias"][0] == P("model")


@pytest.mark.parametrize(
    "solver",
    [
        "alternating_projections_compressed",
        pytest.param("douglas_rachford_0.5", marks=pytest.mark.slow),
        pytest.param("cyclic_projections_expanded", marks=pytest.mark.slow),
    ],
)
def test_projection_steps_are_those_of_one_device(solver: str) -> None:
    plan = check(MLP, solver, "data=2,fsdp=2,model=2")
    assert any("fsdp" in str(x.spec) for x in plan.parameters)


@pytest.mark.slow
def test_a_run_goes_on_on_another_mesh(tmp_path: Any) -> None:
    whole = [row["loss"] for row in train(TASK, config(None)).rows]
    folder = RunFolder(tmp_path / "run")
    first = TrainConfig(**{**vars(config("fsdp=4,data=2")), "batches": 3})
    train(TASK, first, folder)
    found = train(TASK, config("fsdp=2,model=4"), folder, resume=True)
    np.testing.assert_allclose([row["loss"] for row in found.rows], whole, rtol=1e-4)
    assert found.state.memory[0].mu["up"].sharding.spec == P(None, "model", "fsdp")
