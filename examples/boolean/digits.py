"""scikit-learn's digits by threshold neurons: projections, displacements, the straight-through estimator.

    python examples/boolean/digits.py --hidden 64 --starts 20 --json
    python examples/boolean/digits.py --hidden --starts 20 --json      # no hidden layer

The solver sees all training examples at once.
"""

from classification import main
from common import use_all_cores

from pjax_prim.data import load_digits

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
            "solver-starts": {"default": 2},
            "solver-steps": {"default": 3000},
        },
        lambda options: load_digits(),
    )
