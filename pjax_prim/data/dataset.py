"""What every loader returns."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, Shaped


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification data set, whole and in memory: one label for an example, or one for each
    place of a sequence.

    **Arguments:**

    - `name`: as on the command line.
    - `train_x`, `test_x`: one row per example: float32 features, or the int32 tokens of a
      sequence, in `range(classes)`.
    - `train_y`, `test_y`: labels in `range(classes)`; of a sequence as many as it has tokens.
    - `image_shape`: (height, width, channels) of the image that a row is; None if it is none.
    """

    name: str
    train_x: Shaped[np.ndarray, "train features"]
    train_y: Int32[np.ndarray, "train ..."]
    test_x: Shaped[np.ndarray, "test features"]
    test_y: Int32[np.ndarray, "test ..."]
    classes: int
    image_shape: tuple[int, int, int] | None = None

    @property
    def features(self) -> int:
        """The length of one row."""
        return int(self.train_x.shape[1])

    @property
    def is_sequence(self) -> bool:
        """Whether every place of an example has a label."""
        return self.train_y.ndim == 2
