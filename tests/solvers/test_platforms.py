"""A whole solve on sharded inputs, and lowered for other platforms."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import pjax_prim as pjp

SOLVERS = [pjp.AlternatingProjections(), pjp.DouglasRachford()]


def loss(model, x, labels):
    return pjp.cross_entropy(jax.vmap(model)(x), labels)


def problem():
    model = eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (16, 4))
    return model, x, jnp.arange(16) % 3


@pytest.mark.parametrize(
    "solver",
    [SOLVERS[0], pytest.param(SOLVERS[1], marks=pytest.mark.slow)],
    ids=lambda s: type(s).__name__,
)
def test_a_batch_spread_over_devices_gives_the_same_solution(solver: pjp.AbstractSolver) -> None:
    model, x, labels = problem()
    mesh = Mesh(np.array(jax.devices()), ("data",))
    assert mesh.size > 1
    spread = NamedSharding(mesh, PartitionSpec("data"))
    alone = pjp.solve(loss, model, x, labels, solver=solver, max_steps=5)
    shared = pjp.solve(loss, model, *jax.device_put((x, labels), spread), solver=solver, max_steps=5)
    arrays = [eqx.filter(s.params, eqx.is_array) for s in (alone, shared)]
    chex.assert_trees_all_close(*arrays, rtol=1e-10)
    chex.assert_trees_all_close(alone.stats["gap"], shared.stats["gap"], rtol=1e-10)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_a_solve_is_exported_for_every_platform(solver: pjp.AbstractSolver) -> None:
    model, x, labels = problem()

    def gap(x, labels):
        return pjp.solve(loss, model, x, labels, solver=solver, max_steps=3).stats["gap"]

    exported = jax.export.export(jax.jit(gap), platforms=["cpu", "cuda", "tpu"])(x, labels)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    chex.assert_trees_all_close(exported.call(x, labels), gap(x, labels), rtol=1e-10)
