"""Meshes and partition rules: what they mean, and what they refuse."""

import re

import jax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from pjax_prim.sharding import MeshConfig, make_mesh
from pjax_prim.sharding.rules import apply_rules

from pjax_prim.errors import ArgumentError
from pjax_prim.graph.paths import path_of

SHAPES = {"layers.0.weight": (8, 6), "layers.0.bias": (8,), "out.weight": (6, 4)}


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("data=8", (8, 1, 1, 1)),
        ("data=4,model=2", (4, 1, 1, 2)),
        ("data=2, model=2, stage=2", (2, 1, 2, 2)),
        ("data=-1,model=2", (4, 1, 1, 2)),
        ("model=-1", (1, 1, 1, 8)),
        ("data=-1,model=8", (1, 1, 1, 8)),
    ],
)
@pytest.mark.parametrize("kind", ["auto", "explicit"])
def test_sizes(text: str, sizes: tuple[int, ...], kind: str) -> None:
    mesh = make_mesh(f"{text},axis_type={kind}")
    assert mesh.axis_names == ("data", "fsdp", "stage", "model") and mesh.devices.shape == sizes
    assert set(mesh.axis_types) == {AxisType.Auto if kind == "auto" else AxisType.Explicit}
    assert mesh.size == len({device.id for device in mesh.devices.flat}) == len(jax.devices())


def test_text_round_trip() -> None:
    config = MeshConfig(data=-1, model=4, dcn=(("data", 2),), axis_type="explicit")
    assert MeshConfig.parse(str(config)) == config
    assert str(MeshConfig()) == "data=1" and MeshConfig.parse("data=1") == MeshConfig()


def test_slices() -> None:
    sizes, between = MeshConfig.parse("data=-1,model=4,dcn.data=2").resolve(32, slices=2)
    assert sizes == {"data": 8, "fsdp": 1, "stage": 1, "model": 4}
    assert between == {"data": 2, "fsdp": 1, "stage": 1, "model": 1}
    assert MeshConfig.parse("data=-1,dcn.data=-1").resolve(8, slices=4)[1]["data"] == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data=3", "mesh: expected sizes that multiply to the 8 devices there are, given data=3"),
        ("data=4", "(product 4); one may be -1"),
        ("data=3,model=-1", "mesh: expected sizes that multiply to the 8 devices"),
        ("dota=8", "mesh: no axis 'dota'; did you mean data?"),
        ("pipeline=8", "mesh: no axis 'pipeline'; there are data, fsdp, stage, model"),
        ("data=two", "mesh: expected NAME=NUMBER such as data=2, given 'data=two'"),
        ("data", "mesh: expected NAME=NUMBER such as data=2, given 'data'"),
        ("", "mesh: expected sizes such as data=2,model=2, given ''"),
        ("data=0", "mesh: data: expected a size of at least 1, or -1 to infer it, given 0"),
        ("data=-1,model=-1", "mesh: only one size may be -1, given data, model"),
        ("data=2,data=4", "mesh: data is given twice"),
        ("data=8,axis_type=manual", "mesh: axis_type: expected 'auto' or 'explicit', given 'manual'"),
        ("data=8,dcn.data=2", "mesh: dcn: expected sizes that multiply to the 1 slices"),
        ("data=8,dcn.dota=2", "mesh: no axis 'dota'"),
    ],
)
def test_bad_meshes(text: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(message)):
        make_mesh(text)


def test_sizes_between_slices_divide() -> None:
    with pytest.raises(ArgumentError, match="mesh: model=4 is not divided by its dcn size 8"):
        MeshConfig.parse("data=8,model=4,dcn.model=8").resolve(32, slices=8)


def test_first_rule_counts() -> None:
    mesh = make_mesh("data=2,model=2,stage=2")
    rules = [
        ("layers.*.weight", P("model", None)),
        (re.compile(r".*\.weight"), P(("data", "stage"), None)),
        ("layers.0.bias", P(("model", "data"))),
    ]
    shapes = {**SHAPES, "out.weight": (8, 4)}
    assert apply_rules(rules, shapes, mesh) == {
        "layers.0.weight": P("model", None),
        "out.weight": P(("data", "stage"), None),
        "layers.0.bias": P(("model", "data")),
    }


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (("layers.1.weight", P()), "'layers.1.weight' matches no parameter; did you mean layers.0.weight"),
        (("zzz", P()), "matches no parameter; there are layers.0.weight, layers.0.bias, out.weight"),
        (("layers.0.weight", P("modle")), "no mesh axis 'modle'; did you mean model?"),
        (("layers.0.bias", P(None, "model")), "has 2 entries, shape (8,) has 1 axes"),
        (("out.*", P("data")), "out.weight: axis 0 of length 6 is not divided by data=4"),
        (("layers.0.weight", P(("data", "model"))), None),
        (("layers.0.weight", P("model", "model")), "names a mesh axis twice"),
        (("layers.0.bias", "model"), "expected a PartitionSpec, given 'model'"),
    ],
)
def test_bad_rules(rule, message: str | None) -> None:
    mesh = make_mesh("data=4,model=2")
    if message is None:
        apply_rules([rule], SHAPES, mesh)
        return
    with pytest.raises(ArgumentError, match="rules: .*" + re.escape(message)):
        apply_rules([rule], SHAPES, mesh)


def test_paths() -> None:
    assert path_of(".layers[0].weight") == "layers.0.weight"
    assert path_of("['dense_0.weight']") == "dense_0.weight"
    assert path_of("[1]['w'][2]") == "1.w.2" and path_of("params") == "params"
