"""Other ways through a hard function, beside that of a displacement.

    python -m benchmarks.hard.variants --data-dir DIR --fashion-dir DIR

Accuracies of held-out training examples, of one training for each, beside those of results.json at the same
rate and seed: windows of other widths and shapes for spiking neurons, and signals only where they can be
satisfied; of hard attention, distances in units of the spread of the scores, and no signal to the scores at
all; of rounding, the sum over all edges in place of the nearest one.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array

import pjax_prim as pjp

from .estimators import Hard, estimated
from .networks import ROWS, fires, load
from .run import HELD_OUT, TUNING, Trainer

RATE = 2e-3


def window(width: float, power: int = 1) -> Hard:
    """c / (1 + (width x)^2)^power with the distance x from the threshold; a displacement has width 2."""
    return estimated(fires, lambda v, t: t / (1 + jnp.square(width * (v - 1))) ** power)


def pulled(function: Hard, back: Callable[[Array, Array], Array]) -> Hard:
    """`function`, which passes on `back(x, cotangent)`, not necessarily linear in the cotangent."""

    @jax.custom_vjp
    def value(x: Array) -> Array:
        return function(x)

    value.defvjp(lambda x: (function(x), x), lambda x, cotangent: (back(x, cotangent),))
    return value


def satisfiable(v: Array, cotangent: Array) -> Array:
    """The window of a displacement, for spikes that are to go and pauses that are to become spikes alone."""
    asked = jnp.where((v >= 1) == (cotangent > 0), cotangent, jnp.zeros_like(cotangent))
    return asked / (1 + jnp.square(2 * (v - 1)))


def by_spread(x: Array, cotangent: Array) -> Array:
    """The pullback of `pjp.one_hot_argmax` with distances in units of the scores' spread."""
    largest, _ = jax.lax.top_k(x, 2)
    spread = jnp.std(x, -1, keepdims=True)
    share = 1 / (1 + jnp.square(2 * (x - jnp.mean(largest, -1, keepdims=True)) / spread)) / spread
    mean = jnp.sum(share * cotangent, -1, keepdims=True) / jnp.sum(share, -1, keepdims=True)
    return share * (cotangent - mean)


def all_edges(function: Hard, offset: float) -> Hard:
    """Rounding as a sum of steps at all integers, each with its own window: sum of 1 / (1 + 4 (x - k)^2)."""

    def derivative(x: Array, t: Array) -> Array:
        around = math.cosh(math.pi) - jnp.cos(2 * math.pi * (x - offset))
        return t * (math.pi / 2 * math.sinh(math.pi) / around)

    return estimated(function, derivative)


VARIANTS: dict[str, dict[str, Hard]] = {
    "spiking": {
        "width 1": window(1.0),
        "width 5": window(5.0),
        "width 2, squared": window(2.0, 2),
        "only where it can be satisfied": pulled(fires, satisfiable),
    },
    "attention": {
        "in units of the spread": pulled(pjp.one_hot_argmax, by_spread),
        "no signal to scores": pulled(pjp.one_hot_argmax, lambda x, cotangent: jnp.zeros_like(cotangent)),
    },
    "staircase": {"all edges": all_edges(jnp.floor, 0.0)},
    "int8": {"all edges": all_edges(jnp.round, 0.5)},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="the folder of MNIST's files")
    parser.add_argument("--fashion-dir", type=Path, required=True, help="the folder of Fashion-MNIST's files")
    options = parser.parse_args()
    folders = {"mnist": options.data_dir, "fashion-mnist": options.fashion_dir}
    for name, variants in VARIANTS.items():
        row = ROWS[name]
        ROWS[name] = replace(row, estimators={**row.estimators, **variants})
        dataset = load(name, folders)
        for method in variants:
            found = Trainer(name, method, dataset, HELD_OUT).run(RATE, TUNING)
            print(f"{name}, {method}: {found['accuracy']:.2f}%", flush=True)


if __name__ == "__main__":
    main()
