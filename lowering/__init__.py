"""Lowerings of the library's primitives to StableHLO; imported as `pjax_prim.lowering`.

The default, for every platform, is the reference. Importing this module registers it for all
primitives of the library; rules of single platforms are registered after it and win there.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.interpreters import mlir

from pjax_prim.primitives import DEFINITIONS, Definition


def register(
    definition: Definition,
    implementation: Callable[..., tuple[jax.Array, ...]] | None = None,
    platform: str | None = None,
) -> None:
    """Lowers a primitive through a function of arrays.

    The lowered text has a function of the primitive's name; profiles show the same name.

    **Arguments:**

    - `definition`: the primitive.
    - `implementation`: takes what the reference takes; the reference if None.
    - `platform`: the only platform it holds for ("cpu", "cuda", "rocm" or "tpu"); if None, it
      is the default of all.
    """

    def scoped(*arrays: Any, **static: Any) -> tuple[jax.Array, ...]:
        with jax.named_scope(definition.name):
            return (implementation or definition.reference)(*arrays, **static)

    rule = mlir.lower_fun(scoped, multiple_results=True)
    mlir.register_lowering(definition.primitive, rule, platform=platform, inline=False)


for _definition in DEFINITIONS.values():
    register(_definition)

from . import cpu as cpu  # noqa: E402  after the defaults, so that its rules win
