"""MNIST by threshold neurons, with float or with two-level weights.

    python examples/boolean/mnist.py --data-dir DIR --starts 3 --json
    python examples/boolean/mnist.py --data-dir DIR --binary --starts 3 --json
    python examples/boolean/mnist.py --data-dir DIR --methods solver --hidden 64 --json

The solver takes as many examples at once as memory and patience allow: each has copies of all weights.
"""

from pathlib import Path

from classification import main

from pjax_prim.data import load_mnist

if __name__ == "__main__":
    main(
        "mnist",
        __doc__,
        {
            "data-dir": {"type": Path, "required": True},
            "hidden": {"default": [512, 512]},
            "methods": {"default": ("displacement", "straight_through")},
            "learning-rates": {"default": [0.01, 0.02, 0.04]},
            "solver-rows": {"default": 1500},
            # Margins of about the length of a weight vector: of 785 inputs smaller ones say little.
            "solver-sigma": {"default": 0.5},
            "solver-gamma": {"default": 1e-2},
            "solver-steps": {"default": 800},
        },
        lambda options: load_mnist(options.data_dir),
    )
