"""Every difference between JAX versions, and every private JAX name. Nothing else may use them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax._src import distributed as _distributed
from jax._src import source_info_util
from jax._src.custom_batching import custom_vmap_p
from jax._src.lax import lax as _lax
from jax.extend.core import primitives
from jax.interpreters import mlir

try:
    from jax.experimental.pallas import triton as triton
except ImportError:  # deprecated from jax 0.11
    triton = None  # type: ignore[assignment]

EXTRA_MOVEMENTS: tuple[Any, ...] = tuple(
    getattr(_lax, name) for name in ("stack_p", "tile_p", "unstack_p") if hasattr(_lax, name)
)
"""Data movements that are not public names: `stack_p` (from 0.10.1), `tile_p`, `unstack_p` (from 0.12)."""

KEEPS_BARRIERS = jax.__version_info__ >= (0, 11)
"""Whether XLA's CPU backend fuses across no `optimization_barrier`; before, it removes them first."""

_CALLS: dict[Any, str] = {
    primitives.jit_p: "jaxpr",
    primitives.closed_call_p: "call_jaxpr",
    primitives.call_p: "call_jaxpr",
    primitives.custom_jvp_call_p: "call_jaxpr",
    primitives.custom_vjp_call_p: "call_jaxpr",
    primitives.remat_p: "jaxpr",
    custom_vmap_p: "call",
}


def open_jaxpr(closed: Any) -> tuple[Any, Sequence[Any]]:
    """`(jaxpr, constants)` of a closed or open jaxpr.

    From jax 0.11 the two are one class that carries its constants.
    """
    jaxpr = getattr(closed, "jaxpr", closed)
    return jaxpr, getattr(closed, "consts", None) or ()


def called_jaxpr(equation: Any) -> Any | None:
    """The jaxpr that an equation calls exactly once, or None if it is not such a call."""
    name = _CALLS.get(equation.primitive)
    return None if name is None else equation.params[name]


def scan_operands(equation: Any) -> tuple[int, int]:
    """How many constants and how many carries are the first operands of a scan."""
    params = equation.params
    if "num_consts" in params:  # before jax 0.11
        return params["num_consts"], params["num_carry"]
    constants, carries, _ = params["ft_in"].unpack()
    return len(constants.vals), len(carries.vals)


def evaluator(equation: Any) -> Callable[..., tuple[Any, ...]]:
    """`arrays -> results` of one jaxpr equation, under the context it was traced in."""
    primitive, params = equation.primitive, equation.params

    def evaluate(*arrays: Any) -> tuple[Any, ...]:
        with equation.ctx.manager:
            results = primitive.bind(*arrays, **primitive.get_bind_params(params))
        return tuple(results) if primitive.multiple_results else (results,)

    return evaluate


def source_line(equation: Any) -> str:
    """`file:line (function)` of the user's code that made an equation."""
    return source_info_util.summarize(equation.source_info)


def coordination_client() -> Any | None:
    """The client of the key-value store that the processes of a program share; None if alone."""
    return _distributed.global_state.client


def ir_type(ctx: Any, aval: Any) -> Any:
    """The MLIR type of an abstract value, in a lowering rule."""
    convert: Any = mlir.aval_to_ir_type
    if jax.__version_info__ >= (0, 10, 1):
        return convert(ctx.module_context, aval)
    return convert(aval)
