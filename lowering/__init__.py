"""Lowerings of the library's primitives to StableHLO; imported as `pjax_prim.lowering`.

The default, for every platform, is the reference. Importing this module registers it for all
primitives of the library; rules of single platforms are registered after it and win there.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.interpreters import mlir

from pjax_prim.primitives import (
    DEFINITIONS,
    Definition,
    displace_max_p,
    displace_scalar_p,
    project_max_p,
    project_scalar_p,
)
from pjax_prim.primitives import max as maximum


def register(
    definition: Definition,
    implementation: Callable[..., tuple[jax.Array, ...]] | None = None,
    platform: str | None = None,
    *,
    local: bool = False,
) -> None:
    """Lowers a primitive through a function of arrays.

    The lowered text has a function of the primitive's name; profiles show the same name.

    **Arguments:**

    - `definition`: the primitive.
    - `implementation`: takes what the reference takes; the reference if None.
    - `platform`: the only platform it holds for ("cpu", "cuda", "rocm" or "tpu"); if None, it
      is the default of all.
    - `local`: whether it may only be used where one device holds all of the operands (programs of
      one device, and `shard_map` over all axes); elsewhere the reference is.
    """

    def scoped(
        function: Callable[..., tuple[jax.Array, ...]], /, *arrays: Any, **static: Any
    ) -> tuple[jax.Array, ...]:
        with jax.named_scope(definition.name):
            return function(*arrays, **static)

    def rule(ctx: mlir.LoweringRuleContext, *arrays: Any, **static: Any) -> Any:
        chosen = implementation or definition.reference
        if local and not _is_local(ctx):
            chosen = definition.reference
        function = partial(scoped, chosen)
        return mlir.lower_fun(function, multiple_results=True)(ctx, *arrays, **static)

    mlir.register_lowering(definition.primitive, rule, platform=platform, inline=False)


def _is_local(ctx: mlir.LoweringRuleContext) -> bool:
    """Whether an equation's operands are whole on each device that runs it."""
    context = ctx.module_context.axis_context
    if isinstance(context, mlir.SPMDAxisContext):
        manual = {*context.manual_axes, *getattr(context.mesh, "manual_axes", ())}
        return manual >= set(context.mesh.axis_names)
    return isinstance(context, mlir.ShardingContext) and context.num_devices == 1


for _definition in DEFINITIONS.values():
    register(_definition)
# Its length depends on the data: over several devices each pass would cost a collective.
register(project_max_p, partial(maximum.reference, find=maximum.find_by_search), local=True)
register(displace_max_p, partial(maximum.displace_reference, find=maximum.find_by_search), local=True)
# So would the choice between the two ways to solve.
for _definition in (project_scalar_p, displace_scalar_p):
    register(_definition, partial(_definition.reference, branch=True), local=True)

from . import cpu as cpu  # noqa: E402  after the defaults, so that its rules win
