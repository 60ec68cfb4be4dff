"""A linear model on a few rows: the task of tests that need only one."""

from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from pjax_prim.training import Method, Task, TrainConfig, TrainResult

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
Y = (X @ np.array([[1.0], [2.0], [-1.0]], np.float32)) + 1
BATCHES = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 40, 8)]
SHORT = [(X[i : i + 12], Y[i : i + 12]) for i in range(0, 40, 12)]


def linear(key: jax.Array) -> eqx.nn.Linear:
    return eqx.nn.Linear(3, 1, dtype=jnp.float32, key=key)


def squares(model: Any, batch: Any, key: Any) -> Any:
    return 0.5 * jnp.mean(jnp.square(jax.vmap(model)(batch[0]) - batch[1]))


TASK = Task(model=linear, loss=squares, train=BATCHES, evaluate={"test": SHORT})


def config(batches: int = 5, **method: Any) -> TrainConfig:
    return TrainConfig(method=Method(**{"solver": "sgd", **method}), batches=batches, eval_every=batches)


def same(a: TrainResult, b: TrainResult, **tolerance: float) -> None:
    chex.assert_trees_all_close(
        *(eqx.filter(x.model, eqx.is_array) for x in (a, b)), **{"rtol": 1e-5, "atol": 1e-6, **tolerance}
    )
