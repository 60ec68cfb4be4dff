"""Parameters of other frameworks: GPT-2 as it is published into its twin in Equinox; what does not fit."""

import re
import runpy
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pjax_prim.checkpoint import Source, import_params, import_state_dict
from pjax_prim.errors import ArgumentError, CheckpointError

EXAMPLE = runpy.run_path(str(Path(__file__).parent.parent.parent / "examples" / "import_gpt2.py"))
SMALL = {"classes": 11, "length": 6, "width": 8, "heads": 2, "layers": 2}


def published(seed: int = 0) -> dict[str, np.ndarray]:
    """A state dict of a small GPT-2, as the published ones are."""
    rng, width = np.random.default_rng(seed), SMALL["width"]
    shapes = {"wte.weight": (11, width), "wpe.weight": (6, width)}
    for i in range(SMALL["layers"]):
        for name, n, m in (
            ("attn.c_attn", width, 3 * width), ("attn.c_proj", width, width),
            ("mlp.c_fc", width, 4 * width), ("mlp.c_proj", 4 * width, width),
        ):  # fmt: skip
            shapes |= {f"h.{i}.{name}.weight": (n, m), f"h.{i}.{name}.bias": (m,)}
    norms = ["ln_f", *(f"h.{i}.ln_{n}" for i in range(SMALL["layers"]) for n in (1, 2))]
    for name in norms:
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    found = {key: rng.normal(size=shape) for key, shape in shapes.items()}
    for i in range(SMALL["layers"]):
        found[f"h.{i}.attn.bias"] = np.tril(np.ones((1, 1, 6, 6)))
    return found


def forward(p: dict[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    """The forward pass of GPT-2, in the layout of its state dict."""

    def layer(x: np.ndarray, name: str) -> np.ndarray:
        return x @ p[f"{name}.weight"] + p[f"{name}.bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]

    def gelu(x: np.ndarray) -> np.ndarray:
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    n, heads = len(tokens), SMALL["heads"]
    x = p["wte.weight"][tokens] + p["wpe.weight"][:n]
    for i in range(SMALL["layers"]):
        qkv = layer(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn")
        q, k, v = (part.reshape(n, heads, -1).swapaxes(0, 1) for part in np.split(qkv, 3, axis=-1))
        scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
        scores = np.where(p[f"h.{i}.attn.bias"][0, 0, :n, :n] > 0, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(n, -1)
        x = x + layer(mixed, f"h.{i}.attn.c_proj")
        x = x + layer(gelu(layer(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")), f"h.{i}.mlp.c_proj")
    return norm(x, "ln_f") @ p["wte.weight"].T


def test_gpt2_is_its_published_self(tmp_path: Path) -> None:
    arrays, tokens = published(), np.array([3, 1, 4, 1, 5])
    like = eqx.filter_eval_shape(EXAMPLE["GPT2"], **SMALL, dtype=jnp.float64, key=jax.random.key(0))
    given = {"mapping": EXAMPLE["key_map"](2), "drop": EXAMPLE["masks"](2)}
    model = import_state_dict(arrays, like, **given)
    assert not jax.tree.leaves(eqx.filter(model, lambda x: isinstance(x, jax.ShapeDtypeStruct)))
    np.testing.assert_allclose(eqx.filter_jit(model)(tokens), forward(arrays, tokens), rtol=1e-10, atol=1e-10)

    files = pytest.importorskip("safetensors.numpy")
    files.save_file(arrays, tmp_path / "model.safetensors")
    assert eqx.tree_equal(import_params(tmp_path / "model.safetensors", like, **given), model)


SAVED = {"a.w": np.ones((2, 3), np.float32), "a.b": np.ones(3, np.float32)}
LIKE = {"x": jnp.zeros((3, 2), jnp.float32), "y": jnp.zeros(3, jnp.float32)}
TURNED = Source("a.w", np.transpose)


@pytest.mark.parametrize(
    ("mapping", "drop", "lines"),
    [
        ({"x": TURNED}, [], ["y: absent in the checkpoint, float32[3] here", "a.b: float32[3] in the"]),
        ({"x": "a.w", "y": "a.b"}, [], ["a.w: float32[2, 3] in the checkpoint, float32[3, 2] at x"]),
        (
            {"x": Source("a.w", lambda w: w.T.astype(np.float64)), "y": "a.b"}, [],
            ["a.w for x: float64[3, 2] in the checkpoint, float32[3, 2] at x"],
        ),
        ({"x": TURNED, "y": None}, [], ["a.b: float32[3] in the checkpoint, absent here"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_listed(mapping: dict, drop: list, lines: list[str]) -> None:
    with pytest.raises(CheckpointError) as caught:
        import_state_dict(SAVED, LIKE, mapping=mapping, drop=drop)
    assert str(caught.value).startswith("the state dict: does not fit:")
    for line in lines:
        assert f"  {line}" in str(caught.value)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"x": Source("a.q", np.transpose)}, "mapping: 'a.q' is no path of the state dict"),
        ({"z": TURNED}, "mapping: 'z' is no path of the model"),
        (
            {"x": Source("a.w", lambda w: w.reshape(5)), "y": "a.b"},
            "mapping: 'x': cannot be taken from 'a.w', float32[2, 3] (cannot reshape",
        ),
    ],
)
def test_key_maps_that_cannot_be(mapping: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(message)):
        import_state_dict(SAVED, LIKE, mapping=mapping)


def test_what_is_said_to_be_left_over_may_be() -> None:
    found = import_state_dict(SAVED, LIKE, mapping={"x": TURNED, "y": None}, drop=["a.b"])
    assert found["y"] is LIKE["y"] and found["x"].shape == (3, 2) and isinstance(found["x"], jax.Array)


def test_arrays_go_where_the_model_is() -> None:
    mesh = jax.sharding.Mesh(jax.devices()[:2], ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "data"))
    like = {"x": jax.device_put(LIKE["x"], sharding), "y": np.zeros(3, np.float32)}
    found = import_state_dict(SAVED, like, mapping={"x": TURNED, "y": "a.b"})
    assert found["x"].sharding == sharding and isinstance(found["y"], np.ndarray)
