"""Convolutions with groups give on every mesh what they give on one device, by every method."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_prim as pjp
from pjax_prim.training import Method, Task, TrainConfig, train
from tests.solvers.problems import Problem, normal

from .problems import LABELS, STRIDED, B, classify
from .test_equal_to_one_device import check


class Separable(eqx.Module):
    """A depthwise convolution, one between channels, and one of two groups."""

    depthwise: eqx.nn.Conv2d
    pointwise: eqx.nn.Conv2d
    grouped: eqx.nn.Conv2d
    out: eqx.nn.Linear

    def __init__(self, key: Any):
        keys = jax.random.split(key, 4)
        self.depthwise = eqx.nn.Conv2d(4, 8, 3, groups=4, key=keys[0])
        self.pointwise = eqx.nn.Conv2d(8, 4, 1, key=keys[1])
        self.grouped = eqx.nn.Conv2d(4, 4, 2, stride=2, groups=2, key=keys[2])
        self.out = eqx.nn.Linear(16, 3, key=keys[3])

    def __call__(self, x: Any) -> Any:
        x = jax.nn.relu(self.pointwise(self.depthwise(x)))
        return self.out(jax.nn.relu(self.grouped(x)).reshape(-1))


DEPTHWISE = Problem(
    "depthwise", classify, lambda: (Separable(jax.random.key(0)), normal(1, B, 4, 6, 6), LABELS)
)


def in_groups_of_the_batch(params: Any, x: Any, y: Any) -> Any:
    h = jax.lax.conv_general_dilated(x, params["w"], (1,), "SAME", batch_group_count=2)
    return pjp.squared_error(h @ params["v"], y)


BATCH_GROUPS = Problem(
    "batch groups",
    in_groups_of_the_batch,
    lambda: ({"w": normal(0, 4, 3, 3), "v": normal(1, 6, 2)}, normal(2, 2 * B, 3, 6), normal(3, B, 4, 2)),
)
MESHES = ("data=4,model=2", "data=2,model=2,stage=2", "data=2,fsdp=2,model=2")
SOLVERS = ("alternating_projections_compressed", "alternating_projections_expanded", "douglas_rachford_0.5")
FIRST = {(MESHES[2], SOLVERS[0], "depthwise")}


@pytest.mark.parametrize(
    ("mesh", "solver", "problem"),
    [
        pytest.param(
            mesh, solver, problem, id=f"{mesh}-{solver}-{problem}",
            marks=() if (mesh, solver, problem.name) in FIRST else pytest.mark.slow,
        )
        for mesh in MESHES
        for solver in SOLVERS
        for problem in (DEPTHWISE, STRIDED, BATCH_GROUPS)
    ],
)  # fmt: skip
def test_projections(mesh: str, solver: str, problem: Problem) -> None:
    check(problem, solver, mesh)


def loss(model: Any, batch: Any, key: Any) -> Any:
    x, labels = batch
    return pjp.cross_entropy(jax.vmap(model)(x), labels)


def batches() -> list[Any]:
    rng = np.random.default_rng(0)
    return [
        (rng.normal(size=(16, 4, 6, 6)).astype(np.float32), rng.integers(0, 3, 16).astype(np.int32))
        for _ in range(3)
    ]


def single(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.float32) if eqx.is_inexact_array(x) else x, tree)


TASK = Task(model=lambda key: single(Separable(key)), loss=loss, train=batches())
METHODS: dict[str, dict[str, Any]] = {
    "sgd": {"solver": "sgd", "learning_rate": 0.1},
    "displacement": {"solver": "displacement", "learning_rate": 0.01},
    "finite": {"solver": "displacement", "learning_rate": 0.01, "lam": 0.1},
    "ap": {"solver": "ap"},
}


@pytest.mark.parametrize(
    ("method", "mesh"),
    [
        pytest.param(method, mesh, marks=() if (method, mesh) == ("sgd", MESHES[0]) else pytest.mark.slow)
        for method in METHODS
        for mesh in ("data=8", *MESHES)
    ],
)
def test_training(method: str, mesh: str) -> None:
    def run(mesh: str | None) -> list[Any]:
        config = TrainConfig(method=Method(**METHODS[method]), batches=3, mesh=mesh)
        return jax.tree.leaves(eqx.filter(train(TASK, config).state.model, eqx.is_array))

    for new, old in zip(run(mesh), run(None), strict=True):
        np.testing.assert_allclose(new, old, rtol=2e-4, atol=2e-6)
