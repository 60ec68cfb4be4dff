"""What every loader returns."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification data set, whole and in memory.

    **Arguments:**

    - `name`: as on the command line.
    - `train_x`, `test_x`: one row of features in [0, 1] per example.
    - `train_y`, `test_y`: labels in `range(classes)`.
    - `image_shape`: (height, width, channels) of the image that a row is; None if it is none.
    """

    name: str
    train_x: Float32[np.ndarray, "train features"]
    train_y: Int32[np.ndarray, " train"]
    test_x: Float32[np.ndarray, "test features"]
    test_y: Int32[np.ndarray, " test"]
    classes: int
    image_shape: tuple[int, int, int] | None = None

    @property
    def features(self) -> int:
        """The length of one row."""
        return int(self.train_x.shape[1])
