"""Digits of 8 by 8 that scikit-learn ships; nothing to fetch."""

from ..data import load
from ..training import Task
from .classification import Classifier, classification


def task(network: Classifier = Classifier()) -> Task:
    """Digits of 8 by 8 that scikit-learn ships; nothing to fetch."""
    return classification(load("digits"), network)
