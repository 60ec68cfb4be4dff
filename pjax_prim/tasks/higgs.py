"""HIGGS: collisions of particles, told apart by 28 numbers."""

from pathlib import Path

from ..data import load
from ..training import Task
from .classification import Classifier, classification


def task(data_dir: Path | None = None, network: Classifier = Classifier()) -> Task:
    """HIGGS: collisions of particles, told apart by 28 numbers.

    Args:
        data_dir: the folder of the data files.
    """
    return classification(load("higgs", data_dir), network)
