"""Rules for NVIDIA GPUs: kernels of Pallas by Triton, where one device holds the operands.

XLA runs each step of a loop as a kernel of its own, whose arrays go through the memory, and the expanded step
as several passes. JAX deprecates this way to Triton (from 0.11); where it is gone, the references are used,
as they are when a program is lowered on a machine without a GPU.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pjax_prim._compat import has_triton
from pjax_prim.primitives import (
    Definition,
    displace_cross_entropy_p,
    displace_dot_p,
    displace_scalar_p,
    leave_dot_p,
    project_scalar_p,
    prox_cross_entropy_p,
    reflect_dot_p,
)
from pjax_prim.primitives.cross_entropy import moved_logits
from pjax_prim.primitives.curves import FUNCTIONS
from pjax_prim.primitives.scalar import IN_KERNEL, Mode

from .kernels import gpu_cross_entropy, gpu_dot, gpu_elementwise
from .registry import Implementation, Rule, register


def _legal(*operands: Any) -> bool:
    """Whether there is a GPU, and the computation is one of float32 with indices of 32 bits."""
    return (
        jax.default_backend() == "gpu"
        and has_triton()
        and jnp.result_type(*(x.dtype for x in operands)) != jnp.float64
        and all(0 < math.prod(x.shape) < 2**31 for x in operands)
    )


def _prox(logits: Array, labels: Array, step: Array, **settings: Any) -> tuple[Array]:
    (displacement,) = gpu_cross_entropy.displace(logits, labels, step, **settings)
    return (moved_logits(logits, displacement, step),)


def _register(definition: Definition, kernel: Implementation, fits: Callable[..., bool], when: str) -> None:
    rule = Rule(
        "triton_kernel",
        kernel,
        kernel=True,
        local=True,
        supports=lambda *operands, **static: _legal(*operands) and fits(*operands, **static),
        when=f"one device or shard_map, float32 and narrower, {when}",
    )
    register(definition, rule, "cuda")


def _dot_fits(a: Any, *operands: Any, **static: Any) -> bool:
    return gpu_dot.fits(a)


def _has_kernel(*operands: Any, function: str, **static: Any) -> bool:
    return "cuda" not in FUNCTIONS[function].without_kernel


def _cross_entropy_fits(logits: Any, *operands: Any, **static: Any) -> bool:
    return gpu_cross_entropy.fits(logits)


for _definition, _kernel in (
    (displace_dot_p, gpu_dot.displace_dot),
    (leave_dot_p, gpu_dot.leave_dot),
    (reflect_dot_p, gpu_dot.reflect_dot),
):
    _register(_definition, _kernel, _dot_fits, "up to 8,192 inputs: each copy moves once")
for _definition in (displace_scalar_p, project_scalar_p):
    register(
        _definition,
        Rule(
            "straight",
            partial(_definition.reference, mode=Mode(straight=True)),
            when="where the kernel cannot be used: one kernel of XLA's, as there are no loops",
        ),
        "cuda",
    )
    _register(
        _definition,
        partial(gpu_elementwise.elementwise, partial(_definition.reference, mode=IN_KERNEL)),
        _has_kernel,
        "no error functions: loops on the chip",
    )
_register(
    displace_cross_entropy_p,
    gpu_cross_entropy.displace,
    _cross_entropy_fits,
    "up to 4,096 classes: loops on the chip",
)
_register(prox_cross_entropy_p, _prox, _cross_entropy_fits, "up to 4,096 classes: loops on the chip")
