"""Train an ordinary Equinox network on scikit-learn's digits by projections, batch after batch.

python examples/train_equinox.py
"""

import equinox as eqx
import jax

import pjax_prim as pjp
from pjax_prim.data import batch, load

BATCHES, BATCH_SIZE, STEPS = 100, 256, 50


def loss(model, x, labels):
    return pjp.cross_entropy(jax.vmap(model)(x), labels)


@eqx.filter_jit
def train(model, x, labels):
    solution = pjp.solve(loss, model, x, labels, solver=pjp.AlternatingProjections(), max_steps=STEPS)
    return solution.params, solution.stats["gap"]


@eqx.filter_jit
def accuracy(model, x, labels):
    return (jax.vmap(model)(x).argmax(-1) == labels).mean()


def main():
    digits = load("digits")
    model = eqx.nn.MLP(64, 10, width_size=64, depth=2, key=jax.random.key(0))
    print(pjp.constraint_graph(loss)(model, *batch(digits, BATCH_SIZE, seed=0, step=0)))
    for step in range(BATCHES):
        model, gap = train(model, *batch(digits, BATCH_SIZE, seed=0, step=step))
        if (step + 1) % 20 == 0:
            test = accuracy(model, digits.test_x, digits.test_y)
            print(f"batch {step + 1:3}: gap {gap:.3f}, test accuracy {test:.1%}")


if __name__ == "__main__":
    main()
