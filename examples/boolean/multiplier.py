"""Binary multiplication by a network of threshold neurons, all rows of the table.

python examples/boolean/multiplier.py --bits 2 --starts 100 --json
"""

import numpy as np
from common import Task, bits, main

SIZES = {2: (4, 4, 4, 4), 3: (6, 12, 12, 12, 6)}


def task(options) -> Task:
    n = options.bits
    a, b = (x.ravel() for x in np.meshgrid(np.arange(2**n), np.arange(2**n)))
    x = np.concatenate([bits(a, n), bits(b, n)], 1)
    settings = {} if n == 2 else {"steps": 100_000, "gamma": 1e-3}
    return Task(f"{n}-bit multiplier", x, bits(a * b, 2 * n), SIZES[n], **settings)


if __name__ == "__main__":
    main(task, __doc__, {"bits": {"type": int, "choices": sorted(SIZES), "default": 2}})
