"""Random examples, to time steps on."""

import math

import numpy as np

from ..data import Dataset
from ..models import NETWORKS
from ..training import Task
from .classification import Classifier, classification

IMAGE = (32, 32, 3)
LENGTH = 64
FEATURES = {"numbers": 784, "image": math.prod(IMAGE), "tokens": LENGTH}
"""How many numbers or tokens an example has, by what a network reads."""


def task(classes: int = 10, network: Classifier = Classifier(skip=True)) -> Task:
    """Random examples, to time steps on: 784 features of an mlp, images of 32 by 32 of a cnn, sequences of
    64.

    Args:
        classes: of labels, and of tokens.
    """
    rng = np.random.default_rng(0)
    rows = network.batch_size
    reads = NETWORKS[network.model].reads
    if reads == "tokens":
        x, y = rng.integers(0, classes, (2, rows, LENGTH)).astype(np.int32)
    else:
        x = rng.random((rows, FEATURES[reads]), np.float32)
        y = rng.integers(0, classes, rows).astype(np.int32)
    image = IMAGE if reads == "image" else None
    return classification(Dataset("random", x, y, x, y, classes, image), network)
