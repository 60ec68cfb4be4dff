"""A random circuit of and/or gates, from examples: does what fits them compute the circuit?

    python examples/boolean/circuits.py --examples 200 --starts 20 --json

Every layer has as many gates as there are inputs. A gate is the and, or the or, of some values of the
layer below, each possibly negated; the network has the shape of the circuit.
"""

import numpy as np
from common import Task, main

TEST = 1000


def circuit(random, inputs: int, depth: int, fan_in: int):
    """A function of rows of +-1."""
    layers = []
    for _ in range(depth):
        wires = np.stack([random.choice(inputs, fan_in, replace=False) for _ in range(inputs)])
        layers.append((wires, random.choice([-1, 1], wires.shape), random.choice([True, False], inputs)))

    def run(x):
        for wires, signs, is_and in layers:
            values = x[:, wires] * signs
            x = np.where(is_and, values.min(-1), values.max(-1))
        return x.astype(np.float32)

    return run


def task(options) -> Task:
    random = np.random.default_rng(options.seed)
    run = circuit(random, options.inputs, options.depth, options.fan_in)
    x = random.choice(np.array([-1, 1], np.float32), (options.examples + TEST, options.inputs))
    y = run(x)
    cut = options.examples
    sizes = (options.inputs,) * (options.depth + 1)
    return Task("circuit", x[:cut], y[:cut], sizes, (x[cut:], y[cut:]))


if __name__ == "__main__":
    main(
        task,
        __doc__,
        {
            "inputs": {"type": int, "default": 16},
            "depth": {"type": int, "default": 2},
            "fan-in": {"type": int, "default": 2},
            "examples": {"type": int, "default": 200},
        },
        starts=20,
    )
