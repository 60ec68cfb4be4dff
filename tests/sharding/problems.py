"""The problems of `tests/solvers`, with sizes that a mesh divides into parts, or does not."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array

import pjax_prim as pjp
from pjax_prim.models import make_network
from tests.solvers.problems import (
    Problem,
    linear,
    mlp,
    movements,
    normal,
    reductions,
    shared,
    steps,
    strided,
    tied,
)

B = 8  # examples
LABELS = jnp.arange(B) % 3

MLP = Problem("mlp", mlp, lambda: (eqx.nn.MLP(5, 3, 6, 1, key=jr.key(0)), normal(1, B, 5), LABELS))
"""Widths of 6 are divided by 2, not by 4; 5 features and 3 classes are not divided at all."""


def classify(model: Any, x: Array, labels: Array) -> Array:
    return pjp.cross_entropy(jax.vmap(model)(x), labels)


OTHERS = (
    Problem(
        "cnn",
        classify,
        lambda: (
            make_network("cnn", 50, 3, (4, 6), image_shape=(5, 5, 2), skip=True, key=jr.key(0)),
            normal(1, B, 50),
            LABELS,
        ),
    ),
    Problem(
        "rnn",
        classify,
        lambda: (
            make_network("rnn", 5, 4, (6,), key=jr.key(0)),
            jr.randint(jr.key(1), (B, 5), 0, 4),
            jr.randint(jr.key(2), (B, 5), 0, 4),
        ),
    ),
    Problem("linear", linear, lambda: (eqx.nn.Linear(4, 4, key=jr.key(0)), normal(1, B, 4), LABELS)),
    Problem(
        "steps",
        steps,
        lambda: (
            {"levels": normal(0, 4, 6), "gate": normal(1, 4, 6), "out": normal(2, 6, 2)},
            normal(3, B, 4),
            normal(4, B, 2),
        ),
    ),
    Problem(
        "reductions",
        reductions,
        lambda: ({"w": normal(0, 3, 4), "b": normal(1, 4)}, normal(2, B, 2, 3), normal(3, B, 4)),
    ),
    Problem(
        "movements",
        movements,
        lambda: ({"w": normal(0, 6, 4), "b": normal(1, 7)}, normal(2, B, 3), normal(3, B, 7)),
    ),
    Problem(
        "tied", tied, lambda: ({"w": normal(0, 4, 4), "b": normal(1, 4)}, normal(2, B, 4), normal(3, B, 4))
    ),
    Problem(
        "shared",
        shared,
        lambda: (
            {"w": normal(0, 4, 6), "b": normal(1, 6), "out": normal(2, 6, 3)},
            normal(3, B, 4),
            LABELS,
        ),
    ),
)

STRIDED = Problem(
    "strided",
    strided,
    lambda: (
        {
            "grouped": normal(0, 4, 1, 3),
            "b": normal(1, 4, 1),
            "skipping": normal(2, 2, 4, 1),
            "up": normal(3, 4, 2, 2),
        },
        normal(4, B, 2, 6),
        normal(5, B, 4, 6),
    ),
)
"""Its first convolution has groups."""
