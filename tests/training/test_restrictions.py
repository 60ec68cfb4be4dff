"""Tasks whose parameters are restricted, by every kind of method, resumed and on meshes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import pjax_prim as pjp
from pjax_prim.training import Method, RunFolder, Task, TrainConfig, load_run_model, train

RESTRICTIONS = {
    "layers.0.weight": pjp.SpectralNorm(0.5),
    "layers.1.weight": pjp.OrthogonalRows(),
    "layers.*.bias": pjp.NonNegative(),
}
RANDOM = np.random.default_rng(0)
BATCHES = [
    (RANDOM.standard_normal((8, 4)).astype("float32"), RANDOM.standard_normal((8, 4)).astype("float32"))
    for _ in range(3)
]


def loss(model: Any, batch: Any, key: Any) -> Array:
    x, y = batch
    return pjp.squared_error(jax.vmap(model)(x), y)


def task(**fields: Any) -> Task:
    def model(key: Array) -> eqx.nn.MLP:
        return eqx.nn.MLP(4, 4, 8, 1, dtype=jnp.float32, key=key)

    given = {"train": BATCHES, "evaluate": {"test": BATCHES[:1]}, "restrictions": RESTRICTIONS}
    return Task(model=model, loss=loss, **given | fields)


def config(solver: Any, batches: int = 4, **fields: Any) -> TrainConfig:
    steps = {} if solver == "displacement" else {"steps_per_batch": 2}
    rate = {"learning_rate": 0.1} if solver == "displacement" else {}
    return TrainConfig(method=Method(solver=solver, **steps, **rate), batches=batches, **fields)


def check(model: Any, atol: float = 3e-6) -> None:
    first, second = (layer.weight for layer in model.layers)
    assert np.linalg.norm(first, 2) <= 0.5 + atol
    np.testing.assert_allclose(second @ second.T, np.eye(4), atol=atol)
    assert all((layer.bias >= 0).all() for layer in model.layers)


@pytest.mark.usefixtures("shared_compilation")
@pytest.mark.parametrize("solver", ["displacement", pytest.param("ap", marks=pytest.mark.slow)])
def test_restricted_and_resumed(solver: str, tmp_path: Path) -> None:
    """Parameters are in their sets, averaged ones too, and a run that goes on is as one that did not stop."""
    average = {"average": 0.5} if solver == "displacement" else {}
    train(task(), config(solver, 2, **average), RunFolder(tmp_path / "a"))
    found = train(task(), config(solver, 4, **average), RunFolder(tmp_path / "a"), resume=True)
    whole = train(task(), config(solver, 4, **average), RunFolder(tmp_path / "b"))
    for result in (found, whole):
        check(result.model)
    chex.assert_trees_all_equal(*(eqx.filter(x.model, eqx.is_array) for x in (found, whole)))
    if average:
        averaged, _ = load_run_model(task(), RunFolder(tmp_path / "a"), which="averaged")
        check(averaged)


@pytest.mark.parametrize(
    ("solver", "mesh"),
    [("displacement", "data=4,fsdp=2"), pytest.param("ap", "data=4,model=2", marks=pytest.mark.slow)],
)
def test_on_a_mesh(solver: str, mesh: str) -> None:
    one, several = (train(task(), config(solver, 2, mesh=x)).model for x in (None, mesh))
    check(several)
    arrays = (eqx.filter(x, eqx.is_array) for x in (one, several))
    chex.assert_trees_all_close(*(jax.tree.map(np.asarray, x) for x in arrays), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("solver", ["displacement", "ap"])
def test_errors_before_anything_is_compiled(solver: str) -> None:
    known = r"matches no parameter; there are layers\.0\."
    wrong = task(restrictions={"layer.*": pjp.NonNegative()})
    with pytest.raises(pjp.ArgumentError, match=r"'layer\.\*' " + known + "weight"):
        train(wrong, config(solver))

    def biases(model: Any) -> Any:
        return jax.tree.map(lambda x: eqx.is_array(x) and x.ndim == 1, model)

    frozen = replace(task(restrictions={"layers.0.weight": pjp.UnitRows()}), trainable=biases)
    with pytest.raises(pjp.ArgumentError, match=r"'layers\.0\.weight' " + known + "bias"):
        train(frozen, config(solver))
    with pytest.raises(pjp.ArgumentError, match="expected a restriction, a mapping .*given 'small'"):
        task(restrictions="small")
