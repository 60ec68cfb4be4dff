"""Lowerings of the library's primitives to StableHLO; imported as `pjax_prim.lowering`.

The default, for every platform, is the reference. Importing this module registers it for all
primitives of the library; rules of single platforms are registered after it and win there.
"""

from typing import Any

import jax
from jax.interpreters import mlir

from pjax_prim.primitives import DEFINITIONS, Definition


def register(definition: Definition) -> None:
    """Lowers a primitive through its reference, on every platform.

    The lowered text has a function of the primitive's name; profiles show the same name.
    """

    def scoped(*arrays: Any, **static: Any) -> tuple[jax.Array, ...]:
        with jax.named_scope(definition.name):
            return definition.reference(*arrays, **static)

    rule = mlir.lower_fun(scoped, multiple_results=True)
    mlir.register_lowering(definition.primitive, rule, inline=False)


for _definition in DEFINITIONS.values():
    register(_definition)
