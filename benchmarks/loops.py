"""Steps of a recurrent network by the length of its sequences: `python -m benchmarks.loops`.

A Markdown table. The network classifies a sequence by its last state; Adam differentiates it through
`jax.lax.scan`. Compile times include tracing and the first state.
"""

import argparse

import equinox as eqx
import jax
import jax.numpy as jnp

import pjax_prim as pjp
from pjax_prim.training.benchmark import CASES, compare

COLUMNS = {
    "step ms": lambda f: f"{f['step_ms']:.1f}",
    "Adam step ms": lambda f: f"{f['adam_step_ms']:.1f}",
    "step / Adam": lambda f: f"{f['ratio_to_adam']:.2f}",
    "products ms": lambda f: f"{f['products_ms']:.1f}",
    "state MB": lambda f: f"{f['state_bytes'] / 1e6:.1f}",
    "peak MB": lambda f: f"{f['peak_bytes'] / 1e6:.1f}",
    "Adam's peak MB": lambda f: f"{f['adam_peak_bytes'] / 1e6:.1f}",
    "trace + compile s": lambda f: f"{f['compile_s']:.2f}",
}
ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh}


class RNN(eqx.Module):
    """A cell, run over a sequence, and a readout of its last state."""

    recurrent: eqx.nn.Linear
    inputs: eqx.nn.Linear
    readout: eqx.nn.Linear
    activation: str = eqx.field(static=True)

    def __init__(self, features: int, units: int, classes: int, activation: str, key: jax.Array):
        keys = jax.random.split(key, 3)
        self.recurrent = eqx.nn.Linear(units, units, use_bias=False, key=keys[0])
        self.inputs = eqx.nn.Linear(features, units, key=keys[1])
        self.readout = eqx.nn.Linear(units, classes, key=keys[2])
        self.activation = activation

    def __call__(self, xs: jax.Array) -> jax.Array:
        def step(h: jax.Array, x: jax.Array) -> tuple[jax.Array, None]:
            return ACTIVATIONS[self.activation](self.recurrent(h) + self.inputs(x)), None

        start = jnp.zeros(self.recurrent.out_features)
        return self.readout(jax.lax.scan(step, start, xs)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="*", default=[64, 256, 1024])
    parser.add_argument("--units", type=int, default=256)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--activation", choices=ACTIVATIONS, default="relu")
    parser.add_argument("--case", choices=CASES, default="ap")
    parser.add_argument("--repeats", type=int, default=11)
    options = parser.parse_args()
    keys = jax.random.split(jax.random.key(0), 3)
    network = RNN(options.features, options.units, 10, options.activation, keys[0])
    labels = jax.random.randint(keys[1], (options.batch_size,), 0, 10)

    def loss(network: RNN, x: jax.Array, labels: jax.Array) -> jax.Array:
        return pjp.cross_entropy(jax.vmap(network)(x), labels)

    print(f"| length | {' | '.join(COLUMNS)} |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for length in options.lengths:
        x = jax.random.normal(keys[2], (options.batch_size, length, options.features))
        figures = compare(CASES[options.case], loss, network, (x, labels), options.repeats)
        print(f"| {length} | {' | '.join(f(figures) for f in COLUMNS.values())} |", flush=True)


if __name__ == "__main__":
    main()
