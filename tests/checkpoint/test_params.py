import re
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pjax_prim.checkpoint import (
    CHECKPOINTS,
    CheckpointWriter,
    Retention,
    export_params,
    import_params,
    restore_params,
)
from pjax_prim.errors import ArgumentError, CheckpointError
from pjax_prim.models import MLP


def make(*hidden: int, seed: int = 0, out: int = 2, dtype=jnp.float32) -> MLP:
    return MLP(3, out, hidden, dtype=dtype, key=jax.random.key(seed))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with two checkpoints of a network with two hidden layers."""
    path = tmp_path_factory.mktemp("run")
    with CheckpointWriter(path / CHECKPOINTS, Retention(latest=2)) as writer:
        for step in (1, 2):
            model = make(4, 4, seed=step)
            writer.save(step, {"model": model, "batch": jnp.array(step)}, {})
    return path


def test_averaged_parameters(tmp_path) -> None:
    """They are what a run that has them comes to."""
    model = make(4, 4)
    averaged = jax.tree.map(lambda x: x + 1, eqx.filter(model, eqx.is_inexact_array))
    with CheckpointWriter(tmp_path / CHECKPOINTS) as writer:
        writer.save(1, {"model": model, "averaged": averaged}, {})
    like = make(4, 4, seed=5)
    for which, expected in ((None, averaged), ("averaged", averaged), ("last", model)):
        found = restore_params(tmp_path, like, which=which)
        np.testing.assert_array_equal(found.layers[0].bias, expected.layers[0].bias)


def test_the_same_model(run) -> None:
    assert eqx.tree_equal(restore_params(run, make(4, 4)), make(4, 4, seed=2))
    assert eqx.tree_equal(restore_params(run, make(4, 4), step=1), make(4, 4, seed=1))
    abstract = eqx.filter_eval_shape(make, 4, 4)
    assert eqx.tree_equal(restore_params(run, abstract), make(4, 4, seed=2))
    assert eqx.tree_equal(restore_params(run, make(4, 4), which="last"), make(4, 4, seed=2))


def test_extra_and_missing_layers(run) -> None:
    saved = make(4, 4, seed=2)
    deeper, like = restore_params(
        run,
        make(4, 4, 4, seed=5),
        mapping={"layers.2": None, "layers.3": "layers.2", "layers.3.bias": None},
        drop=["layers.2.bias"],
    ), make(4, 4, 4, seed=5)  # fmt: skip
    assert eqx.tree_equal(deeper.layers[:2], saved.layers[:2])
    assert eqx.tree_equal(deeper.layers[2], like.layers[2])
    assert eqx.tree_equal(deeper.layers[3].weight, saved.layers[2].weight)
    assert eqx.tree_equal(deeper.layers[3].bias, like.layers[3].bias)
    shallower = restore_params(run, make(4), mapping={"layers.1": "layers.2"}, drop=["layers.1"])
    assert eqx.tree_equal(shallower.layers, (saved.layers[0], saved.layers[2]))
    twice = restore_params(run, make(4, 4, 4), mapping={"layers.2": "layers.1", "layers.3": "layers.2"})
    assert eqx.tree_equal(twice.layers[2], saved.layers[1])


def test_what_does_not_fit_is_listed(run) -> None:
    with pytest.raises(CheckpointError) as error:
        restore_params(run, make(4, dtype=jnp.float64, out=5))
    assert [line.strip() for line in str(error.value).splitlines()[1:]] == [
        "layers.0.weight: float32[4, 3] in the checkpoint, float64[4, 3] here",
        "layers.0.bias: float32[4] in the checkpoint, float64[4] here",
        "layers.1.weight: float32[4, 4] in the checkpoint, float64[5, 4] here",
        "layers.1.bias: float32[4] in the checkpoint, float64[5] here",
        "layers.2.weight: float32[2, 4] in the checkpoint, absent here",
        "layers.2.bias: float32[2] in the checkpoint, absent here",
    ]
    with pytest.raises(CheckpointError) as error:
        restore_params(run, make(4, 4), mapping={"layers.0": "layers.1", "layers.1": "layers.0"})
    assert [line.strip() for line in str(error.value).splitlines()[1:]] == [
        "layers.1.weight: float32[4, 4] in the checkpoint, float32[4, 3] at layers.0.weight",
        "layers.0.weight: float32[4, 3] in the checkpoint, float32[4, 4] at layers.1.weight",
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mapping": {"layer": None}}, "mapping: 'layer' is no path of the model"),
        ({"mapping": {"layers.0": "layers.7"}}, "mapping: 'layers.7' is no path of"),
        ({"drop": ["layers.7"]}, "drop: 'layers.7' is no path of"),
        ({"which": "worst"}, "which: expected one of last, averaged, best, given 'worst'"),
    ],
)
def test_bad_arguments(run, settings: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(message)):
        restore_params(run, make(4, 4), **settings)


def test_absent_parameters(run, tmp_path) -> None:
    with pytest.raises(CheckpointError, match="holds no best parameters"):
        restore_params(run, make(4, 4), which="best")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        restore_params(tmp_path, make(4, 4))
    with pytest.raises(CheckpointError, match="9/checkpoint.json: cannot be read"):
        restore_params(run, make(4, 4), step=9)
    abstract = eqx.filter_eval_shape(make, 4, 4)
    with pytest.raises(
        ArgumentError, match="'layers.0.weight' is to keep its own value, but is only a shape"
    ):
        restore_params(run, abstract, mapping={"layers.0": None}, drop=["layers.0"])


@pytest.mark.parametrize("suffix", [".eqx", ".safetensors"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_export_and_import(tmp_path, suffix: str, dtype) -> None:
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    path = tmp_path / f"model{suffix}"
    model = make(4, dtype=dtype)
    export_params(model, path)
    export_params(model, path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert eqx.tree_equal(import_params(path, make(4, seed=1, dtype=dtype)), model)
    with pytest.raises(CheckpointError, match="model"):
        import_params(path, make(5, dtype=dtype))
    with pytest.raises(CheckpointError, match="model"):
        import_params(path, make(4, dtype=jnp.float64))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match=f"model{suffix}: damaged"):
        import_params(path, make(4, dtype=dtype))


def test_files_of_others(tmp_path) -> None:
    model = make(4)
    eqx.tree_serialise_leaves(tmp_path / "a.eqx", model)
    assert eqx.tree_equal(import_params(tmp_path / "a.eqx", make(4, seed=1)), model)
    export_params(model, tmp_path / "b.eqx")
    assert eqx.tree_equal(eqx.tree_deserialise_leaves(tmp_path / "b.eqx", make(4, seed=1)), model)
    numpy = pytest.importorskip("safetensors.numpy")
    export_params(model, tmp_path / "c.safetensors")
    assert sorted(numpy.load_file(tmp_path / "c.safetensors")) == [
        "layers.0.bias", "layers.0.weight", "layers.1.bias", "layers.1.weight",
    ]  # fmt: skip
    one = import_params(tmp_path / "c.safetensors", make(seed=3), mapping={"layers.0": None}, drop=["layers"])
    assert eqx.tree_equal(one, make(seed=3))


def test_export_errors(tmp_path, monkeypatch) -> None:
    with pytest.raises(ArgumentError, match=r"expected a name that ends in .eqx or .safetensors"):
        export_params(make(4), tmp_path / "model.bin")
    with pytest.raises(CheckpointError, match="absent.eqx: no such file"):
        import_params(tmp_path / "absent.eqx", make(4))
    with pytest.raises(CheckpointError, match="cannot be written"):
        export_params(make(4), tmp_path / "no" / "model.eqx")
    export_params(make(4), tmp_path / "model.eqx")
    with pytest.raises(ArgumentError, match="an .eqx file does not name its arrays"):
        import_params(tmp_path / "model.eqx", make(4), drop=["layers.0"])
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ArgumentError, match=r"pip install 'pjax-prim\[safetensors\]'"):
        export_params(make(4), tmp_path / "model.safetensors")


def test_what_safetensors_cannot_hold_is_named(tmp_path) -> None:
    tree = {"good": jnp.ones(2, jnp.float32), "bad": jax.random.key(0)}
    with pytest.raises(
        ArgumentError, match=r"out.safetensors: bad: a .safetensors file cannot hold key<fry>"
    ):
        export_params(tree, tmp_path / "out.safetensors")
    for suffix in (".safetensors", ".eqx"):
        with pytest.raises(ArgumentError, match=rf"out{suffix}: bad: a {suffix} file cannot hold object"):
            export_params({"bad": np.array([None, 1], object)}, tmp_path / f"out{suffix}")
    assert not list(tmp_path.iterdir())
    tree = {"nan": jnp.array([1.0, jnp.nan]), "double": jnp.ones(2, jnp.float64)}
    export_params(tree, tmp_path / "out.safetensors")
    found = import_params(tmp_path / "out.safetensors", tree)
    assert found["double"].dtype == jnp.float64
    np.testing.assert_array_equal(found["nan"], tree["nan"])


@pytest.mark.parametrize("suffix", [".eqx", ".safetensors"])
def test_a_model_set_for_inference_stays_so(tmp_path, suffix: str) -> None:
    model = eqx.nn.Sequential([eqx.nn.Linear(2, 2, key=jax.random.key(0)), eqx.nn.Dropout(0.5)])
    export_params(model, tmp_path / f"model{suffix}")
    like = eqx.nn.inference_mode(jax.tree.map(lambda x: 2 * x if eqx.is_array(x) else x, model))
    found = import_params(tmp_path / f"model{suffix}", like)
    assert found.layers[1].inference
    assert eqx.tree_equal(found, eqx.nn.inference_mode(model))


def test_an_eqx_file_holds_every_leaf_as_it_is(tmp_path) -> None:
    tree = {
        "key": jax.random.key(3), "rbg": jax.random.split(jax.random.key(4, impl="rbg"), 2),
        "nan": jnp.array([1.0, jnp.nan]), "double": np.array([1 / 3]),
    }  # fmt: skip
    export_params(tree, tmp_path / "out.eqx")
    other = {
        "key": jax.random.key(0), "rbg": jax.random.split(jax.random.key(5, impl="rbg"), 2),
        "nan": jnp.zeros(2), "double": np.zeros(1),
    }  # fmt: skip
    for like in (other, eqx.filter_eval_shape(lambda: {**other, "double": jnp.zeros(1)})):
        found = import_params(tmp_path / "out.eqx", like)
        assert {name: x.dtype for name, x in found.items()} == {name: x.dtype for name, x in tree.items()}
        for name in ("key", "rbg"):
            np.testing.assert_array_equal(jax.random.key_data(found[name]), jax.random.key_data(tree[name]))
        np.testing.assert_array_equal(found["nan"], tree["nan"])
        np.testing.assert_array_equal(found["double"], tree["double"])


@pytest.mark.parametrize("name", ["x.safetensors", "x.eqx"])
def test_a_missing_folder(name: str, tmp_path) -> None:
    with pytest.raises(CheckpointError, match=f"absent/{name}: cannot be written .no such folder"):
        export_params({"x": jnp.ones(2)}, tmp_path / "absent" / name)
