"""Train Equinox networks by Adam, save them, load them, and train on by projections.

    python examples/import_equinox.py

The networks are ordinary Equinox modules; the projections need nothing of them but a loss.
"""

import tempfile
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import pjax_prim as pjp
from pjax_prim.data import batch, load

BATCH_SIZE, ADAM_BATCHES, BATCHES, STEPS = 128, 60, 20, 30


def make_mlp(key):
    return eqx.nn.MLP(64, 10, width_size=64, depth=2, key=key)


def make_cnn(key):
    keys = jax.random.split(key, 3)
    return eqx.nn.Sequential(
        [
            eqx.nn.Lambda(lambda x: x.reshape(1, 8, 8)),
            eqx.nn.Conv2d(1, 8, 3, padding=1, key=keys[0]),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.MaxPool2d(2, 2),
            eqx.nn.Conv2d(8, 16, 3, padding=1, key=keys[1]),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(16 * 4 * 4, 10, key=keys[2]),
        ]
    )


def loss(model, x, labels):
    return pjp.cross_entropy(jax.vmap(model)(x), labels, lam=1.0)


@eqx.filter_jit
def by_adam(model, state, x, labels):
    gradient = eqx.filter_grad(lambda model: loss(model, x, labels).mean())(model)
    updates, state = OPTIMISER.update(gradient, state)
    return eqx.apply_updates(model, updates), state


@eqx.filter_jit
def by_projections(model, x, labels):
    solution = pjp.solve(loss, model, x, labels, solver=pjp.AlternatingProjections(), max_steps=STEPS)
    return solution.params, solution.stats["gap"]


@eqx.filter_jit
def accuracy(model, x, labels):
    return (jax.vmap(model)(x).argmax(-1) == labels).mean()


OPTIMISER = optax.adam(1e-3)


def main():
    digits = load("digits")
    for name, make in (("MLP", make_mlp), ("CNN", make_cnn)):
        model = make(jax.random.key(0))
        state = OPTIMISER.init(eqx.filter(model, eqx.is_inexact_array))
        for step in range(ADAM_BATCHES):
            model, state = by_adam(model, state, *batch(digits, BATCH_SIZE, seed=0, step=step))

        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.eqx"
            eqx.tree_serialise_leaves(file, model)
            model = eqx.tree_deserialise_leaves(file, make(jax.random.key(1)))

        before = accuracy(model, digits.test_x, digits.test_y)
        for step in range(BATCHES):
            model, gap = by_projections(model, *batch(digits, BATCH_SIZE, seed=1, step=step))
        after = accuracy(model, digits.test_x, digits.test_y)
        print(f"{name}: test accuracy {before:.1%} by Adam, {after:.1%} after projections (gap {gap:.3f})")


if __name__ == "__main__":
    main()
