"""scikit-learn's digits by threshold neurons: projections, displacements, the straight-through estimator.

    python examples/boolean/digits.py --hidden 64 --starts 20 --json
    python examples/boolean/digits.py --hidden --starts 20 --json      # no hidden layer

The solver sees all training examples at once and makes the outputs threshold neurons too; the class is the
one whose neuron is nearest to the other side, or farthest on it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from classification import main, summary
from common import data_mesh, loss, scores, use_all_cores

import pjax_prim as pjp
from pjax_prim.data import load_digits
from pjax_prim.models import ThresholdNetwork


def accuracy(network, x, y):
    return jnp.mean(jnp.argmax(jax.vmap(scores, (None, 0))(network.weights, x), -1) == y)


def by_projections(sizes, options, data):
    x, y, test_x, test_y = data
    found = pjp.solve_starts(
        loss,
        lambda key: ThresholdNetwork(sizes, key=key),
        x,
        2 * jax.nn.one_hot(y, sizes[-1]) - 1,
        key=jax.random.key(options.seed),
        starts=options.solver_starts,
        solver=pjp.ReflectReflectRelax(gamma=1e-3),
        max_steps=options.solver_steps,
        is_solved=lambda network: accuracy(network, x, y) == 1,
        lanes=len(jax.devices()),
        mesh=data_mesh(),
    )
    trained, tested = (
        np.asarray(jax.vmap(accuracy, (0, None, None))(found.params, *rows))
        for rows in ((x, y), (test_x, test_y))
    )
    return summary(trained, tested, found.steps, found.seconds)


if __name__ == "__main__":
    use_all_cores()
    main(
        "digits",
        __doc__,
        {
            "hidden": {"default": [64]},
            "starts": {"default": 20},
            "epochs": {"default": 100},
            "batch-size": {"default": 64},
            "learning-rates": {"default": [0.05, 0.1, 0.15, 0.3]},
            "solver-starts": {"type": int, "default": 2},
            "solver-steps": {"type": int, "default": 3000},
        },
        lambda options: load_digits(),
        by_projections,
    )
