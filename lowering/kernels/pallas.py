"""Pallas, imported by the first kernel that is built: that takes as long as all of this package."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu
    from jax.experimental.pallas import triton as triton
else:

    class _Later:
        """A module, imported when it is first asked for something."""

        def __init__(self, name: str):
            self._name = name

        def __getattr__(self, name: str) -> Any:
            return getattr(importlib.import_module(self._name), name)

    pl = _Later("jax.experimental.pallas")
    pltpu = _Later("jax.experimental.pallas.tpu")
    triton = _Later("jax.experimental.pallas.triton")

__all__ = ["pl", "pltpu", "triton"]
