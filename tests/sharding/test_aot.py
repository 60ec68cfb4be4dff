"""`pjax-prim aot`: what it refuses, and one compilation where libtpu is there."""

import importlib.util
import json
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pjax_prim.sharding import Collective, collectives, make_mesh, make_plan
from pjax_prim.sharding.program import Program, size_of
from pjax_prim.sharding.roofline import CHIPS, roofline
from pjax_prim.sharding.topology import _wanted_bytes, analyse, topology_devices

import pjax_prim as pjp
from pjax_prim.cli import main
from pjax_prim.errors import ArgumentError
from pjax_prim.training import Task
from pjax_prim.training.parts import Parts

from .test_fsdp import INNER, LAYERS, TASK, WIDTH, config

HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None
needs_libtpu = pytest.mark.skipif(not HAS_LIBTPU, reason="libtpu is not installed (extra: aot)")
SMALL = "--hidden 256 256 --batch-size 256".split()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--topology v9x:4x4 --mesh data=16", "topology: no chip 'v9x' in 'v9x:4x4'; there are v4, v5e"),
        ("--topology v5e-16 --mesh data=16", "topology: no chip 'v5e-16' in 'v5e-16'; did you mean v5e"),
        ("--topology v5e:sixteen --mesh data=16", "topology: expected CHIP:AxB or CHIP:AxBxC"),
        (
            "--topology v5e:2x2 --topology v5e:4x4 --topology v5e:8x8 --mesh data=4 --mesh data=16",
            "mesh: expected one, or one for each of 3 topologies, given 2",
        ),
    ],
)
def test_bad_input(arguments: str, message: str, capsys) -> None:
    assert main(["aot", *arguments.split()]) == 2
    captured = capsys.readouterr()
    assert f"pjax-prim: error: {message}" in captured.err and not captured.out


def test_without_libtpu(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ArgumentError, match=r"needs libtpu: pip install 'pjax-prim\[aot\]'"):
        topology_devices("v5e:4x4")


def test_roofline_has_three_terms() -> None:
    exchanged = [
        Collective("all-reduce", ((100,),), 400, 16, False),
        Collective("all-gather", ((100,),), 400, 4, False),
    ]
    for topology in ("v5e:16x16", "v5e:8x8"):
        terms = roofline(topology, 197e12, 819e9 * 2, exchanged)
        assert terms.arithmetic_s == pytest.approx(1) and terms.memory_s == pytest.approx(2)
        assert terms.interconnect_s == pytest.approx((2 * 15 / 16 / 2 + 3 / 4) * 400 / 50e9)
    assert roofline("v5p:4x4x4", 459e12, 0, exchanged).arithmetic_s == pytest.approx(1)
    assert terms.step_s == pytest.approx(2 + terms.interconnect_s)
    assert set(CHIPS) == {"v4", "v5e", "v5p", "v6e"}


@pytest.mark.parametrize(
    ("topology", "collective", "bytes_on_a_link"),
    [
        ("v5e:16x16", ("all-gather", 16), 15 / 16 / 2),  # a ring
        ("v5e:8x8", ("all-gather", 8), 7 / 8),  # a line
        ("v5e:8x8", ("all-gather", 16), 15 / 16 / 2),  # a ring in two rows
        ("v5e:16x16", ("all-gather", 2), 1 / 2),
        ("v5e:16x16", ("all-to-all", 16), 2),
        ("v5e:8x8", ("all-to-all", 8), 2),
        ("v5p:4x4x4", ("all-to-all", 4), 1 / 2),
    ],
)
def test_how_groups_are_connected(topology: str, collective: tuple[str, int], bytes_on_a_link: float) -> None:
    kind, devices = collective
    found = roofline(topology, 0, 0, [Collective(kind, ((1,),), 1, devices, False)])
    assert found.interconnect_s * CHIPS[topology[:3]].link == pytest.approx(bytes_on_a_link)


def test_permutations_go_through_the_slice() -> None:
    """The busiest link counts: of neighbours one message, of a transposition many."""

    def passing(pairs: Any, topology: str, looped: bool = False, **given: Any) -> float:
        moved = Collective("collective-permute", ((1,),), 1, 2, looped, 1, tuple(pairs))
        return roofline(topology, 0, 0, [moved], **given).interconnect_s * 50e9

    onward = [(i, i // 8 * 8 + (i + 1) % 8) for i in range(64)]
    assert passing(onward, "v5e:8x8") == pytest.approx(1)  # the way back of the last ones is free
    assert passing([(i, (i + 1) % 16) for i in range(16)], "v5e:16x16") == pytest.approx(1)
    assert passing([(i, (i + 1) % 16) for i in range(16)], "v5e:16x16", looped=True) == pytest.approx(0.5)
    turned = [(16 * i + j, 16 * j + i) for i in range(16) for j in range(16) if i != j]
    assert passing(turned, "v5e:16x16") == pytest.approx(8)
    places = [(i % 16, i // 16) for i in range(256)]
    assert passing(turned, "v5e:16x16", places=places) == pytest.approx(8)


def test_the_compiler_s_message_of_too_little_memory() -> None:
    text = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.5G of 15.75G hbm. Exceeded"
    assert _wanted_bytes(text) == int(20.5 * 2**30)
    text = "the total memory required for HLO temporaries (258.63G) exceeds available HBM (15.75G)."
    assert _wanted_bytes(text) == int(258.63 * 2**30)
    assert _wanted_bytes("INTERNAL: something else") is None


@pytest.mark.slow
@needs_libtpu
def test_a_step_is_compiled_for_a_pod(capsys) -> None:
    assert main(["aot", "--topology", "v5e:4x4", "--mesh", "data=4,model=-1", *SMALL, "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["chips"] == 16 and found["fits"] and found["mesh"] == "data=4,model=4"
    assert 0 < found["peak_bytes_per_chip"] < found["capacity_bytes_per_chip"] == 16 * 2**30
    assert {"all-gather", "all-reduce"} <= set(found["collectives"])
    terms = [found[f"{name}_s"] for name in ("arithmetic", "memory", "interconnect")]
    assert all(x > 0 for x in terms)
    assert found["predicted_step_s"] == pytest.approx(max(terms[:2]) + terms[2])
    assert "v5e:4x4" in captured.err


@pytest.mark.slow
@needs_libtpu
def test_what_does_not_fit_is_named(capsys) -> None:
    wide = "--hidden 4096 4096 --batch-size 4096 --solver dr".split()
    assert main(["aot", "--topology", "v5e:2x2", "--mesh", "data=4", *wide, "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert not found["fits"] and found["predicted_step_s"] is None
    assert found["peak_bytes_per_chip"] > found["capacity_bytes_per_chip"]
    assert "v5e:2x2: does not fit" in captured.err
    assert "linear_1[0] float32[1, 4096, 4096, 4096]" in captured.err
    assert main(["aot", "--topology", "v5e:3x7", "--mesh", "data=-1", *SMALL]) == 2
    assert "topology: libtpu knows no 'v5e:3x7'" in capsys.readouterr().err


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize("solver", ["displacement", "adam"])
def test_a_direction_is_compiled_for_a_pod(solver: str, capsys) -> None:
    arguments = ["--topology", "v5e:2x2", "--mesh", "data=2,model=2", "--solver", solver, *SMALL, "--json"]
    assert main(["aot", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["chips"] == 4 and found["fits"] and "all-reduce" in found["collectives"]


def wide_task() -> Task:
    """That of `test_fsdp` with layers 32 times as wide: of small arrays the compiler makes one sum."""

    def wide(tree: Any) -> Any:
        return jax.tree.map(lambda x: np.tile(x, 32 if x.ndim < 2 else (32, 32)), tree)

    def model(key: Any) -> Any:
        def widened(x: Any) -> Any:
            return jnp.tile(x, (1, *[32] * (x.ndim - 1)) if len(x) == LAYERS else 32 * np.ones(x.ndim, int))

        return jax.tree.map(widened, TASK.model(key))

    return replace(TASK, model=model, train=wide(TASK.train))


LAYER = 4 * 32**2 * WIDTH * INNER
"""Bytes of a matrix of one of its layers."""


@pytest.mark.slow
@pytest.mark.optimised
@needs_libtpu
@pytest.mark.parametrize("mesh", ["fsdp=4", "data=2,fsdp=2"])
def test_a_layer_is_gathered_and_what_flows_back_is_scattered(mesh: str) -> None:
    """The TPU's compiler sums what flows back and leaves it in parts, layer by layer, in the loop."""

    parts = Parts.make(wide_task(), config(mesh), topology_devices("v5e:2x2"))
    found = collectives(parts.lower()[0].compile().as_text())
    stacked = [x for x in found if x.looped]
    assert {x.kind for x in stacked} == {"all-gather", "reduce-scatter", "all-reduce"}
    assert max(x.bytes for x in stacked if x.kind == "all-gather") <= LAYER
    # What is summed whole are the vectors of a layer.
    assert max(x.bytes for x in stacked if x.kind == "all-reduce") < LAYER
    assert sum(x.bytes for x in stacked if x.kind == "reduce-scatter") >= LAYER


@pytest.mark.slow
@pytest.mark.optimised
@needs_libtpu
def test_a_projection_leaves_wide_layers_where_they_lie() -> None:
    """What moves are rows of activations, each sum of them to the devices that have the rows."""
    rows, width = 256, 4096
    sizes = {"in": (64, width), "out": (width, width)}
    network = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in sizes.items()}
    x, y = (jax.ShapeDtypeStruct((rows, size), jnp.float32) for size in (64, width))

    def loss(model: Any, x: Any, y: Any) -> Any:
        return pjp.squared_error(jax.nn.relu(x @ model["in"]) @ model["out"], y)

    mesh = make_mesh("fsdp=4,model=4", topology_devices("v5e:4x4"))
    plan = make_plan(loss, network, x, y, solver=pjp.AlternatingProjections(), mesh=mesh)
    found = analyse("v5e:4x4", plan)
    assert found.exchanged is not None and found.fits
    scattered = [
        x for x in found.exchanged if x.kind == "reduce-scatter" and x.bytes >= 4 * rows * width // 4
    ]
    assert len(scattered) == 2  # the dot products, and the means over rows
    assert (
        sum(x.bytes for x in found.exchanged) < 4 * width**2 // 4
    )  # no part of the weight that `model` makes


@pytest.mark.slow
@pytest.mark.optimised
@needs_libtpu
@pytest.mark.parametrize("mesh", ["data=2,dcn.data=2,fsdp=4", "data=8,dcn.data=2"])
def test_sums_over_slices_are_made_in_slices_first(mesh: str) -> None:
    """Between the slices each chip exchanges its part of what its slice has summed."""
    parts = Parts.make(wide_task(), config(mesh), topology_devices("v5e:2x2", slices=2))
    assert parts.placing.mesh is not None
    slices = [{x.slice_index for x in half.flat} for half in parts.placing.mesh.devices]
    assert slices in ([{0}, {1}], [{0}] * 4 + [{1}] * 4)
    program = Program.parse(parts.lower()[0].compile().as_text())
    # Chips are numbered within their slice.
    assert {x.devices for x in collectives(program)} <= {2, 4}
    sent = [x for of in program.computations.values() for x in of.values() if x.kind == "send"]
    assert sent and all("xla_megascale_runtime" in x.line for x in sent)
    most = max(size_of(x.results[:1]) for x in sent)
    assert LAYER / 8 <= most <= LAYER / 4
