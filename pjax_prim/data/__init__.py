"""Data sets, read from their standard files, and deterministic batches of them.

One file per format: `digits.py` (scikit-learn), `idx.py` (MNIST, Fashion-MNIST), `cifar10.py`, `higgs.py`,
`text.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import ArgumentError, DataError
from .baseline import baseline as baseline
from .batches import batch as batch
from .batches import batch_indices as batch_indices
from .batches import batches as batches
from .cifar10 import load_cifar10 as load_cifar10
from .dataset import Dataset as Dataset
from .dataset import hold_out as hold_out
from .digits import load_digits as load_digits
from .higgs import load_higgs as load_higgs
from .idx import load_mnist as load_mnist
from .idx import read_idx as read_idx
from .streams import InOrder as InOrder
from .streams import Shuffled as Shuffled
from .streams import Stream as Stream
from .streams import open_stream as open_stream
from .text import load_text as load_text
from .tokens import TokenFile as TokenFile


@dataclass(frozen=True)
class _Source:
    """A row of the table of data sets.

    - `load(folder, name, **settings)`: reads it, without arguments where it has no folder.
    - `settings`: those of `load` below that it takes.
    - `comes_with`: the package that brings it, so that it needs no folder.
    """

    load: Callable[..., Dataset]
    settings: tuple[str, ...] = ()
    comes_with: str | None = None


SOURCES: dict[str, _Source] = {
    "digits": _Source(load_digits, comes_with="scikit-learn"),
    "mnist": _Source(load_mnist),
    "fashion-mnist": _Source(load_mnist),
    "cifar10": _Source(load_cifar10),
    "higgs": _Source(load_higgs),
    "text": _Source(load_text, ("length", "held_out")),
}
"""The data sets by their names."""

DATASETS = tuple(SOURCES)


def load(
    name: str,
    folder: str | Path | None = None,
    *,
    length: int | None = None,
    held_out: float | None = None,
) -> Dataset:
    """The data set `name`, one of `DATASETS`.

    **Arguments:**

    - `folder`: where its files lie; `digits` needs none and takes none.
    - `length`: the length of the sequences of `text`, 64 by default; `held_out`: the share of a text that
      is for testing, 0.2 by default. No other data set takes them.

    **Errors:** `ArgumentError` for another name, or a folder missing or not wanted; `DataError`
    for a file that is missing, truncated or of another format.
    """
    if name not in DATASETS:
        raise ArgumentError(f"data: expected one of {', '.join(DATASETS)}, given {name!r}")
    given = {"length": length, "held_out": held_out}
    settings = {option: value for option, value in given.items() if value is not None}
    source = SOURCES[name]
    for option in settings:
        if option not in source.settings:
            takers = ", ".join(other for other, row in SOURCES.items() if option in row.settings)
            raise ArgumentError(f"{option}: only for {takers}, given with {name}")
    if source.comes_with is not None:
        if folder is not None:
            raise ArgumentError(f"data_dir: {name} comes with {source.comes_with}, given {str(folder)!r}")
        return source.load()
    if folder is None:
        raise ArgumentError(f"data_dir: {name} needs the folder of its files")
    if not Path(folder).is_dir():
        raise DataError(f"{folder}: no such folder")
    return source.load(Path(folder), name, **settings)
