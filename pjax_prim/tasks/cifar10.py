"""CIFAR-10: photographs of 32 by 32."""

from pathlib import Path

from ..data import load
from ..training import Task
from .classification import Classifier, classification


def task(data_dir: Path | None = None, network: Classifier = Classifier()) -> Task:
    """CIFAR-10: photographs of 32 by 32.

    Args:
        data_dir: the folder of the data files.
    """
    return classification(load("cifar10", data_dir), network)
