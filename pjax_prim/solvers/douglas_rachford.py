"""Douglas-Rachford."""

import equinox as eqx

from ..problem import Form
from ..settings import Setting, check_range
from .relaxed_reflections import AbstractRelaxedReflections


class DouglasRachford(AbstractRelaxedReflections):
    """z <- (1 - r) z + r R_B R_A z with R = 2 P - I.

    With r = 1/2 it is the classical iteration (Douglas and Rachford, 1956; Lions and Mercier, 1979).

    **Arguments:**

    - `relaxation`: r, above 0 and at most 1.
    - `form`: only "expanded", because the sequence leaves consensus.
    """

    relaxation: Setting = 0.5
    form: Form = eqx.field(static=True, default="expanded")

    def __check_init__(self) -> None:
        check_range("relaxation", self.relaxation, 1)

    @property
    def factor(self) -> Setting:
        return self.relaxation
