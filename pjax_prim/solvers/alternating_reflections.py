"""Alternating reflections."""

import equinox as eqx

from ..problem import Form
from ..settings import Setting
from .relaxed_reflections import AbstractRelaxedReflections


class AlternatingReflections(AbstractRelaxedReflections):
    """z <- R_B R_A z with R = 2 P - I.

    This is the Peaceman-Rachford iteration, which is Douglas-Rachford without averaging.

    **Arguments:** `form`, only "expanded", because the sequence leaves consensus.
    """

    form: Form = eqx.field(static=True, default="expanded")

    @property
    def factor(self) -> Setting:
        return 1.0
