"""What a data set gives away without a network."""

import numpy as np

from .dataset import Dataset


def baseline(dataset: Dataset) -> tuple[str, float]:
    """The name and the test accuracy of the trivial prediction from the training examples.

    For a text it is the bigram table, the character that follows the present one most often. Otherwise it is
    the majority class.
    """
    if dataset.is_sequence:
        table = np.zeros((dataset.classes, dataset.classes), np.int64)
        np.add.at(table, (dataset.train_x.ravel(), dataset.train_y.ravel()), 1)
        return "bigram table", float(np.mean(table.argmax(1)[dataset.test_x] == dataset.test_y))
    majority = np.bincount(dataset.train_y, minlength=dataset.classes).argmax()
    return "majority class", float(np.mean(dataset.test_y == majority))
