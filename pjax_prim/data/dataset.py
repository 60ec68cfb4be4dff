"""What every loader returns."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int32, Shaped

from ..errors import ArgumentError


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification data set, whole and in memory: one label for an example, or one for each
    place of a sequence.

    **Arguments:**

    - `name`: its name on the command line.
    - `train_x`, `test_x`: one row per example: float32 features, or the int32 tokens of a
      sequence, in `range(classes)`.
    - `train_y`, `test_y`: labels in `range(classes)`; of a sequence as many as it has tokens.
    - `image_shape`: (height, width, channels) of the image that a row is; None if it is none.
    - `validation_x`, `validation_y`: training examples that are held out (`hold_out`), or None.
    """

    name: str
    train_x: Shaped[np.ndarray, "train features"]
    train_y: Int32[np.ndarray, "train ..."]
    test_x: Shaped[np.ndarray, "test features"]
    test_y: Int32[np.ndarray, "test ..."]
    classes: int
    image_shape: tuple[int, int, int] | None = None
    validation_x: Shaped[np.ndarray, "validation features"] | None = None
    validation_y: Int32[np.ndarray, "validation ..."] | None = None

    @property
    def features(self) -> int:
        """The length of one row."""
        return int(self.train_x.shape[1])

    @property
    def is_sequence(self) -> bool:
        """Whether every place of an example has a label."""
        return self.train_y.ndim == 2


def hold_out(dataset: Dataset, share: float) -> Dataset:
    """The data set with a share of its training examples, drawn once and for all, held out.

    **Errors:** `ArgumentError` where that leaves no example on either side.
    """
    count = len(dataset.train_x)
    held = round(share * count)
    if not 0 < held < count:
        raise ArgumentError(
            f"validation: expected a share that leaves some of the {count} training examples on either side, "
            f"given {share}"
        )
    order = np.random.default_rng(count).permutation(count)
    out, kept = np.sort(order[:held]), np.sort(order[held:])
    return replace(
        dataset,
        train_x=dataset.train_x[kept],
        train_y=dataset.train_y[kept],
        validation_x=dataset.train_x[out],
        validation_y=dataset.train_y[out],
    )
