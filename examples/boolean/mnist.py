"""MNIST by threshold neurons, with float or with two-level weights.

    python examples/boolean/mnist.py --data-dir DIR --starts 3 --json
    python examples/boolean/mnist.py --data-dir DIR --binary --starts 3 --json
    python examples/boolean/mnist.py --data-dir DIR --methods solver --hidden 64 --solver-batches 300 --json

The solver goes through batches: on each it starts from the weights of the one before.
"""

from pathlib import Path
from time import perf_counter

import jax
import jax.numpy as jnp
import numpy as np
from classification import SignNetwork, accuracy, main, summary

import pjax_prim as pjp
from pjax_prim.data import load_mnist


def by_projections(sizes, options, data):
    x, y, test_x, test_y = data
    # Small margins: of large ones every batch would ask for much that the next one undoes.
    network = SignNetwork(sizes, binary=options.binary, sigma=30.0, key=jax.random.key(options.seed))
    random = np.random.default_rng(options.seed)
    opened = perf_counter()

    def loss(network, x, labels):
        return pjp.cross_entropy(jax.vmap(network)(x), labels, lam=10.0)

    for _ in range(options.solver_batches):
        rows = random.choice(len(x), options.batch_size, replace=False)
        labels = jax.nn.one_hot(y[rows], sizes[-1])
        network = pjp.solve(
            loss, network, x[rows], labels, solver=pjp.DouglasRachford(), max_steps=options.solver_steps
        ).params
    seconds = perf_counter() - opened
    trained, tested = (
        np.asarray(accuracy(network, *map(jnp.asarray, rows)))[None] for rows in ((x, y), (test_x, test_y))
    )
    return summary(trained, tested, np.array([options.solver_batches * options.solver_steps]), seconds)


if __name__ == "__main__":
    main(
        "mnist",
        __doc__,
        {
            "data-dir": {"type": Path, "required": True},
            "hidden": {"default": [512, 512]},
            "methods": {"default": ("displacement", "straight_through")},
            "learning-rates": {"default": [0.01, 0.02, 0.04]},
            "solver-batches": {"type": int, "default": 100},
            "solver-steps": {"type": int, "default": 20},
        },
        lambda options: load_mnist(options.data_dir),
        by_projections,
    )
