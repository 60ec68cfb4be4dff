"""A step of the cellular automaton rule 30, from examples: does what fits them hold for other states?

    python examples/boolean/automaton.py --examples 200 --starts 10 --sweeps --json

A cell becomes left xor (itself or right); cells are in a ring.
"""

import numpy as np
from common import Task, bits, main

CELLS, SIZES, TEST = 16, (16, 32, 32, 16), 1000


def rule_30(states):
    """One step, rows of +-1."""
    on = states > 0
    left, right = np.roll(on, 1, -1), np.roll(on, -1, -1)
    return np.where(left ^ (on | right), 1, -1).astype(np.float32)


def task(options) -> Task:
    random = np.random.default_rng(options.seed)
    states = bits(random.permutation(2**CELLS)[: options.examples + TEST], CELLS)
    x, test = states[: options.examples], states[options.examples :]
    return Task("rule 30", x, rule_30(x), SIZES, (test, rule_30(test)), rate=100.0)


if __name__ == "__main__":
    main(task, __doc__, {"examples": {"type": int, "default": 200}}, starts=10)
