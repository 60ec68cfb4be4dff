"""What the other tests show with 64-bit types and hardly optimised programs, as JAX is set for users.

`./run test` starts them in a process of their own: `pytest --as-users tests/test_as_users.py`. Solves and
displacements run where users forbid silent promotions of ranks and dtypes.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_prim as pjp
from pjax_prim.checkpoint import Preemption
from pjax_prim.cli import main

FIXTURES = Path(__file__).parent / "data" / "trajectories.npz"

pytestmark = pytest.mark.as_users


@pytest.fixture
def strict() -> Iterator[None]:
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


def test_jax_is_as_users_have_it() -> None:
    assert jnp.ones(3, float).dtype == jnp.float32
    assert not jax.config.read("jax_disable_most_optimizations")


def network(params: Any, x: Any, labels: Any) -> Any:
    """The network `mlp_skip` of the fixtures: the output reads both hidden layers."""
    first = jax.nn.relu(params["relu_0.bias"][None] + x @ params["dense_0.weight"])
    second = jax.nn.relu(params["relu_1.bias"][None] + first @ params["dense_1.weight"])
    return pjp.cross_entropy(jnp.concatenate([first, second], -1) @ params["out.weight"], labels, lam=5.0)


def fixture(prefix: str) -> dict[str, np.ndarray]:
    with np.load(FIXTURES) as file:
        found = {k.removeprefix(prefix): np.float32(file[k]) for k in file if k.startswith(prefix)}
    assert found
    return found


SOLVERS: dict[str, pjp.AbstractSolver] = {
    "alternating_projections": pjp.AlternatingProjections(),
    "cyclic_projections": pjp.CyclicProjections(form="expanded"),
    "douglas_rachford_0.5": pjp.DouglasRachford(),
}


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("name", SOLVERS)
def test_solve_follows_the_trajectories_in_double_precision(name: str) -> None:
    params, data = fixture("mlp_skip/init/"), fixture("mlp_skip/")
    solution = pjp.solve(
        network, params, data["x"], data["labels"], solver=SOLVERS[name], max_steps=10, readout="governing"
    )
    expected = fixture(f"mlp_skip/cross_entropy/{name}/10/")
    del expected["mean_squared_step"]
    assert {x.dtype.name for x in jax.tree.leaves((solution.params, solution.state))} == {"float32"}
    chex.assert_trees_all_close(solution.params, expected, rtol=0, atol=1e-4)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), params, expected)
    assert min(moved.values()) > 1e-2  # far more than what is allowed


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("lam", [None, 0.1], ids=["first order", "finite"])
def test_displacements_descend_and_are_those_of_eager_code(lam: float | None) -> None:
    params, data = fixture("mlp_skip/init/"), fixture("mlp_skip/")
    x, labels = data["x"], data["labels"]
    direct = pjp.value_and_displacement(network, lam=lam)
    value, found = jax.jit(direct)(params, x, labels)
    gradient = jax.grad(lambda p: jnp.mean(network(p, x, labels)))(params)
    np.testing.assert_allclose(value, network(params, x, labels), rtol=1e-5)
    after = jax.tree.map(lambda p, d: p - jnp.float32(0.1) * d, params, found)
    assert jnp.mean(network(after, x, labels)) < jnp.mean(value)
    if lam is None:
        chex.assert_trees_all_close((value, found), direct(params, x, labels), rtol=1e-4, atol=1e-5)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(gradient), strict=True):
            assert jnp.vdot(a, b) > 0.95 * jnp.linalg.norm(a) * jnp.linalg.norm(b)


TRAIN = "train --hidden 32 --batch-size 64 --batches 30 --checkpoint-every 10 --json".split()


def trained(run_dir: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    assert main([*TRAIN, "--run-dir", str(run_dir), *more]) == 0
    summary: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return summary


@pytest.mark.parametrize("solver", ["ap", "displacement", "adam --learning-rate 0.01"])
def test_digits_are_trained_stopped_and_resumed(
    solver: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(tmp_path / "whole", capsys, "--solver", *solver.split())
    assert whole["batches"] == 30 and whole["test_accuracy"] > 0.5  # ten classes
    polls = iter([False] * 12)
    with monkeypatch.context() as patch:
        patch.setattr(Preemption, "reached", lambda self: next(polls, True))
        assert main([*TRAIN, "--run-dir", str(tmp_path / "stopped"), "--solver", *solver.split()]) == 75
    capsys.readouterr()
    resumed = trained(tmp_path / "stopped", capsys, "--solver", *solver.split(), "--resume")
    assert resumed["params_sha256"] == whole["params_sha256"]
    assert main(["eval", "--run-dir", str(tmp_path / "stopped"), "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["test_accuracy"] == whole["test_accuracy"]


def test_models_keep_their_dtypes() -> None:
    model = eqx.nn.MLP(4, 3, 6, 1, key=jax.random.key(0))
    x, labels = jax.random.normal(jax.random.key(1), (5, 4)), jnp.array([0, 2, 1, 0, 2])
    new = pjp.solve(
        lambda model: pjp.cross_entropy(jax.vmap(model)(x), labels),
        model,
        solver=pjp.ExtrapolatedProjections(),
        max_steps=3,
    ).params
    chex.assert_trees_all_equal_shapes_and_dtypes(*(eqx.filter(m, eqx.is_array) for m in (new, model)))
    before, after = (jnp.mean(pjp.cross_entropy(jax.vmap(m)(x), labels)) for m in (model, new))
    assert after < before
