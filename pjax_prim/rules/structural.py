"""Equations that only move data."""

import jax.numpy as jnp
from jax import lax

from .._compat import EXTRA_MOVEMENTS, IDENTITIES
from ..errors import GraphError
from .registry import Movement, MovementKind, Rule, RuleContext, register_projection
from .remedies import remedy


def _moves(kind: MovementKind, data: slice = slice(None), instead: str = "") -> Rule:
    """A rule for a data movement whose inputs outside `data` have to be constant."""

    def rule(ctx: RuleContext) -> Movement:
        positions = range(len(ctx.inputs))
        for position in set(positions) - set(positions[data]):
            if not ctx.constant[position]:
                raise GraphError(
                    f"primitive {ctx.primitive.name!r}: input {position} depends on a parameter, "
                    f"but it decides where data goes and so has no projection; {instead}"
                )
        return Movement(kind)

    return rule


def _convert(ctx: RuleContext) -> Movement:
    dtype = ctx.outputs[0].dtype
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise GraphError(f"conversion to {dtype}: {remedy('complex')}")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise GraphError(
            f"conversion of a value that depends on a parameter to {dtype}: this rounds, so it is "
            "no movement of data; use pjp.quantize"
        )
    return Movement("bijective")


for _primitive in (
    lax.reshape_p,
    lax.transpose_p,
    lax.squeeze_p,
    lax.rev_p,
    lax.copy_p,
    lax.reduce_precision_p,  # an identity: states are not rounded
    lax.concatenate_p,
    *(p for p in EXTRA_MOVEMENTS if p.name == "stack"),
):
    register_projection(_primitive, _moves("bijective"))
for _primitive in (*IDENTITIES, lax.optimization_barrier_p):
    register_projection(_primitive, lambda ctx: Movement("bijective" if len(ctx.inputs) == 1 else "partial"))
# What is behind `stop_gradient` is read and never moved: its way back is zero, so it counts as unused.
for _primitive in (
    lax.slice_p,
    lax.split_p,
    *(p for p in EXTRA_MOVEMENTS if p.name == "unstack"),
    lax.stop_gradient_p,
):
    register_projection(_primitive, _moves("partial"))
for _primitive in (lax.broadcast_in_dim_p, *(p for p in EXTRA_MOVEMENTS if p.name == "tile")):
    register_projection(_primitive, _moves("repeating"))
register_projection(lax.convert_element_type_p, _convert)
register_projection(lax.pad_p, _moves("partial", slice(0, 1), "pad with a constant"))
_INDEX = "index with constants"
register_projection(lax.gather_p, _moves("partial", slice(0, 1), _INDEX))
register_projection(lax.dynamic_slice_p, _moves("partial", slice(0, 1), _INDEX))
register_projection(lax.dynamic_update_slice_p, _moves("partial", slice(0, 2), _INDEX))
register_projection(lax.select_n_p, _moves("partial", slice(1, None), "select with a constant predicate"))
