"""MNIST: handwritten digits of 28 by 28."""

from pathlib import Path

from ..data import load
from ..training import Task
from .classification import Classifier, classification


def task(data_dir: Path | None = None, network: Classifier = Classifier()) -> Task:
    """MNIST: handwritten digits of 28 by 28.

    Args:
        data_dir: the folder of the data files.
    """
    return classification(load("mnist", data_dir), network)
