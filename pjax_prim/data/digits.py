"""The 8x8 digits that scikit-learn ships: 1,797 examples, nothing to fetch."""

import numpy as np

from .dataset import Dataset

_SPLIT_SEED = 0


def load_digits() -> Dataset:
    """1,437 training and 360 test examples of 64 features; the split is always the same."""
    from sklearn import datasets  # of the extra `train`

    x, y = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(x))
    x, y = (x[order] / 16).astype(np.float32), y[order].astype(np.int32)
    split = len(x) * 4 // 5
    return Dataset("digits", x[:split], y[:split], x[split:], y[split:], 10, (8, 8, 1))
