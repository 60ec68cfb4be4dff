"""A binary autocoder: n one-hot rows through a layer of log2(n) threshold neurons and back, exactly.

python examples/boolean/autocoder.py --size 16 --starts 100 --json
"""

import numpy as np
from common import Task, main


def task(options) -> Task:
    n = options.size
    x = 2 * np.eye(n, dtype=np.float32) - 1
    # Reading one input of n asks a neuron for a support of (n + 1) / 4 at least.
    settings = {} if n == 8 else {"steps": 60_000, "sigma": (n / 2, 8, 3), "beta": 0.3, "gamma": 1e-3}
    return Task(f"autocoder {n}", x, x, (n, n.bit_length() - 1, n, n), **settings)


if __name__ == "__main__":
    main(task, __doc__, {"size": {"type": int, "choices": (8, 16, 32), "default": 16}})
