"""A text: at every place the next character is predicted."""

from pathlib import Path

from ..data import load
from ..training import Task
from .classification import Classifier, classification


def task(
    data_dir: Path | None = None, length: int = 64, network: Classifier = Classifier(model="gru")
) -> Task:
    """A text: at every place the next character is predicted.

    Args:
        data_dir: the folder of the one .txt file.
        length: characters in an example.
    """
    return classification(load("text", data_dir, length=length), network)
