"""Equinox models as users keep them: loaded from files, with shared layers, with frozen parts."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jaxtyping import Array

import pjax_prim as pjp

X, LABELS = jr.normal(jr.key(8), (12, 4)), jr.randint(jr.key(9), (12,), 0, 3)
SOLVER = pjp.AlternatingProjections()


def make(seed: int = 0) -> eqx.nn.MLP:
    return eqx.nn.MLP(4, 3, 5, 2, key=jr.key(seed))


def loss(model: Any, x: Array, labels: Array) -> Array:
    return pjp.cross_entropy(jax.vmap(model)(x), labels)


def arrays(tree: Any) -> list[Array]:
    return jax.tree.leaves(eqx.filter(tree, eqx.is_array))


def moved(before: Any, after: Any) -> list[bool]:
    return [bool((a != b).any()) for a, b in zip(arrays(before), arrays(after), strict=True)]


def test_a_model_from_a_file_trains_on(tmp_path: Path) -> None:
    model = make()
    optimiser = optax.adam(1e-2)
    gradient = eqx.filter_grad(lambda m: loss(m, X, LABELS).mean())(model)
    updates, _ = optimiser.update(gradient, optimiser.init(eqx.filter(model, eqx.is_array)))
    model = eqx.apply_updates(model, updates)
    eqx.tree_serialise_leaves(tmp_path / "model.eqx", model)
    loaded = eqx.tree_deserialise_leaves(tmp_path / "model.eqx", make(1))
    here, there = (pjp.solve(loss, m, X, LABELS, solver=SOLVER, max_steps=20) for m in (model, loaded))
    assert jax.tree.structure(there.params) == jax.tree.structure(model)
    for a, b in zip(arrays(here.params), arrays(there.params), strict=True):
        np.testing.assert_array_equal(a, b)
    assert all(moved(loaded, there.params))
    assert loss(there.params, X, LABELS).mean() < loss(model, X, LABELS).mean()


def test_frozen_parts_are_data() -> None:
    """A filter as for `eqx.filter_grad`: what it leaves out comes back as it was."""
    model = make()
    everything = jax.tree.map(eqx.is_inexact_array, model)
    spec = eqx.tree_at(lambda m: (m.layers[0].weight, m.layers[2].bias), everything, (False, False))
    trained, frozen = eqx.partition(model, spec)

    def partial_loss(trained: Any, frozen: Any, x: Array, labels: Array) -> Array:
        return loss(eqx.combine(trained, frozen), x, labels)

    solution = pjp.solve(partial_loss, trained, frozen, X, LABELS, solver=SOLVER, max_steps=20)
    result = eqx.combine(solution.params, frozen)
    assert moved(model, result) == [False, True, True, True, True, False]
    assert jax.tree.structure(result) == jax.tree.structure(model)
    assert sum(node.constraint is None for node in pjp.constraint_graph(partial_loss)(
        trained, frozen, X, LABELS).nodes) == 4  # fmt: skip


def test_frozen_everything_is_an_error() -> None:
    trained, frozen = eqx.partition(make(), lambda leaf: False)
    with pytest.raises(pjp.ArgumentError, match="params: no floating-point array in it, so there is nothing"):
        pjp.solve(
            lambda trained, frozen: loss(eqx.combine(trained, frozen), X, LABELS),
            trained, frozen, solver=SOLVER, max_steps=1,
        )  # fmt: skip

    def behind_a_stop(model: Any) -> Array:
        moving, static = eqx.partition(model, eqx.is_array)
        return loss(eqx.combine(jax.lax.stop_gradient(moving), static), X, LABELS)

    with pytest.raises(pjp.GraphError, match="every parameter is behind jax.lax.stop_gradient"):
        pjp.solve(behind_a_stop, make(), solver=SOLVER, max_steps=1)


class Tied(eqx.Module):
    """An embedding whose transpose makes the logits, by `eqx.nn.Shared`."""

    shared: eqx.nn.Shared

    def __init__(self, key: Array):
        keys = jr.split(key)
        pair = eqx.nn.Embedding(3, 4, key=keys[0]), eqx.nn.Linear(4, 3, key=keys[1])
        self.shared = eqx.nn.Shared(pair, lambda pair: pair[1].weight, lambda pair: pair[0].weight)

    def __call__(self, token: Array) -> Array:
        embedding, linear = self.shared()
        return linear(embedding(token))


class Twice(eqx.Module):
    """One layer applied two times."""

    layer: eqx.nn.Linear

    def __call__(self, x: Array) -> Array:
        return self.layer(jax.nn.relu(self.layer(x)))


@pytest.mark.slow
def test_shared_layers_stay_one() -> None:
    tokens = jnp.array([0, 1, 2, 1])
    tied = Tied(jr.key(0))
    solution = pjp.solve(loss, tied, tokens, (tokens + 1) % 3, solver=SOLVER, max_steps=50)
    assert len(arrays(solution.params)) == len(arrays(tied)) == 2
    assert all(moved(tied, solution.params))
    before, after = (loss(model, tokens, (tokens + 1) % 3).mean() for model in (tied, solution.params))
    assert after < 0.5 * before

    twice = Twice(eqx.nn.Linear(4, 4, key=jr.key(1)))
    solution = pjp.solve(loss, twice, X, LABELS, solver=SOLVER, max_steps=20)
    assert all(moved(twice, solution.params))
    assert loss(solution.params, X, LABELS).mean() < loss(twice, X, LABELS).mean()


class Normed(eqx.Module):
    """A network with state."""

    linear: eqx.nn.Linear
    norm: eqx.nn.BatchNorm

    def __init__(self, key: Array):
        self.linear = eqx.nn.Linear(4, 3, key=key)
        self.norm = eqx.nn.BatchNorm(3, "batch", mode="batch")

    def __call__(self, x: Array, state: eqx.nn.State) -> tuple[Array, eqx.nn.State]:
        return self.norm(self.linear(x), state)


def apply_to_batch(model: Any, state: Any, x: Array) -> tuple[Array, Any]:
    return jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)


def test_state_is_an_argument_and_found_afterwards() -> None:
    model, state = eqx.nn.make_with_state(Normed)(jr.key(0))

    def stateful_loss(model: Any, state: Any, x: Array, labels: Array) -> Array:
        return pjp.cross_entropy(apply_to_batch(model, state, x)[0], labels)

    solution = pjp.solve(stateful_loss, model, state, X, LABELS, solver=SOLVER, max_steps=20)
    assert all(moved(model.linear, solution.params.linear))
    _, new_state = apply_to_batch(solution.params, state, X)
    outputs = jax.vmap(solution.params.linear)(X)
    hidden_mean, _ = new_state.get(model.norm.batch_state_index)
    np.testing.assert_allclose(hidden_mean, 0.01 * outputs.mean(0), rtol=1e-6)

    def returns_both(model: Any, state: Any, x: Array, labels: Array) -> tuple[Array, Any]:
        outputs, state = apply_to_batch(model, state, x)
        return pjp.cross_entropy(outputs, labels), state

    with pytest.raises(
        pjp.GraphError, match="depends on parameters but is no loss; return one number, or losses only"
    ):
        pjp.solve(returns_both, model, state, X, LABELS, solver=SOLVER, max_steps=1)
