"""Rules for TPU: kernels of Pallas, where one device holds the operands."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pjax_prim.primitives import (
    displace_dot_p,
    displace_scalar_p,
    leave_dot_p,
    project_linear_p,
    project_scalar_p,
    reflect_dot_p,
)
from pjax_prim.primitives.curves import FUNCTIONS
from pjax_prim.primitives.linear import reference as linear_reference
from pjax_prim.primitives.scalar import IN_KERNEL

from .kernels import elementwise, reflect_dot, solve
from .kernels.copies import fits
from .registry import Rule, register


def _in_float32(*operands: Any, **static: Any) -> bool:
    """Whether the computation is one of float32: kernels have no wider numbers."""
    return jnp.result_type(*(x.dtype for x in operands)) != jnp.float64 and all(x.size for x in operands)


def _project_linear(*operands: Array, interpret: bool = False, **static: Any) -> tuple[jax.Array, ...]:
    return linear_reference(*operands, answer=lambda query: solve.answer(query, interpret), **static)


register(
    project_linear_p,
    Rule(
        "solve_kernel",
        _project_linear,
        kernel=True,
        local=True,
        supports=_in_float32,
        when="one device or shard_map, float32 and narrower: all scalar solves and their sums in one pass",
    ),
    "tpu",
)
for _definition, _rule in (
    (displace_dot_p, reflect_dot.displace_dot),
    (leave_dot_p, reflect_dot.leave_dot),
    (reflect_dot_p, reflect_dot.reflect_dot),
):
    register(
        _definition,
        Rule(
            f"{_definition.name.removeprefix('pjax_').removesuffix('_dot')}_kernel",
            _rule,
            kernel=True,
            local=True,
            supports=lambda *operands, **static: _in_float32(*operands) and fits(operands[0]),
            when="one device or shard_map, float32 and narrower, up to 8,192 inputs: each copy moves once",
        ),
        "tpu",
    )

for _definition in (displace_scalar_p, project_scalar_p):
    register(
        _definition,
        Rule(
            "strips_kernel",
            partial(
                elementwise.elementwise,
                partial(_definition.reference, mode=IN_KERNEL),
            ),
            kernel=True,
            local=True,
            supports=lambda *operands, function, **static: (
                _in_float32(*operands) and "tpu" not in FUNCTIONS[function].without_kernel
            ),
            when="one device or shard_map, float32 and narrower, what Mosaic has: loops on the chip",
        ),
        "tpu",
    )
