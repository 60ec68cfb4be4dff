"""Every difference between JAX versions, and every private JAX name. Nothing else may use them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax._src import ad_checkpoint as _ad_checkpoint
from jax._src import core as _core
from jax._src import dispatch as _dispatch
from jax._src import distributed as _distributed
from jax._src import pjit as _pjit
from jax._src import source_info_util
from jax._src import util as _util
from jax._src.custom_batching import custom_vmap_p
from jax._src.lax import lax as _lax
from jax._src.linear_util import WrappedFun
from jax._src.named_sharding import UnspecifiedValue
from jax._src.shard_map import shard_map_p as shard_map_p
from jax.extend import core as _extend
from jax.extend.core import Literal, primitives
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import func, stablehlo
from jax.interpreters import mlir
from jax.lax import cond_p

EXTRA_MOVEMENTS: tuple[Any, ...] = tuple(
    getattr(_lax, name) for name in ("stack_p", "tile_p", "unstack_p") if hasattr(_lax, name)
)
"""Data movements that are not public names: `stack_p` (from 0.10.1), `tile_p`, `unstack_p` (from 0.12)."""


COMPOSED: dict[Any, Callable[[Any], Any]] = {
    getattr(_lax, name): meaning
    for name, meaning in (
        ("log2_p", lambda x: _lax.log(x) / math.log(2)),
        ("one_minus_square_p", lambda x: 1 - _lax.square(x)),
    )
    if hasattr(_lax, name)
}
"""Operations of newer JAX (from 0.12) that others make up, with what they are there."""

IDENTITIES: tuple[Any, ...] = tuple(
    getattr(module, name)
    for module, name in (
        (_ad_checkpoint, "name_p"),
        (_core, "pvary_p"),
        (_dispatch, "device_put_p"),
        (_pjit, "mesh_cast_p"),
        (_pjit, "reshard_p"),
        (_pjit, "sharding_constraint_p"),
    )
    if hasattr(module, name)
)
"""Operations that give each array as it is: they name it, or say where it lies."""

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


def as_weak(number: Any) -> Any:
    """A scalar array with a weak type, as a Python number has: what it is combined with keeps its dtype."""
    return _lax._convert_element_type(number, weak_type=True)


def is_jit_disabled() -> bool:
    """Whether `jax.disable_jit` holds."""
    config: Any = jax.config
    return bool(config.jax_disable_jit)


def open_jaxpr(closed: Any) -> tuple[Any, Sequence[Any]]:
    """`(jaxpr, constants)` of a closed or open jaxpr.

    From jax 0.11 the two are one class that carries its constants.
    """
    jaxpr = getattr(closed, "jaxpr", closed)
    return jaxpr, getattr(closed, "consts", None) or ()


def without_constants(jaxpr: Any) -> Any:
    """The open jaxpr without the arrays it carries, so that keeping it keeps none alive."""
    return jaxpr.replace(consts=[None] * len(jaxpr.consts)) if getattr(jaxpr, "consts", None) else jaxpr


def wrapped_parts(value: Any) -> tuple[Any, ...] | None:
    """The functions and settings of what JAX wraps around a rule of a custom derivative; None for others."""
    if not isinstance(value, WrappedFun):
        return None
    return (value.f, *(x for pair in value.transforms for x in pair), value.params)


def program_cache(function: Callable[..., Any]) -> Callable[..., Any]:
    """Caches a function by its arguments and JAX's configuration; `jax.clear_caches()` clears it."""
    cached: Callable[..., Any] = _util.cache(max_size=128, trace_context_in_key=True)(function)
    return cached


def close_jaxpr(jaxpr: Any, constants: Sequence[Any]) -> Any:
    """The inverse of `open_jaxpr`, with other constants."""
    if hasattr(jaxpr, "consts"):  # from jax 0.11
        return jaxpr.replace(consts=list(constants))
    core: Any = _extend  # whose types leave the name out from jax 0.12
    return core.ClosedJaxpr(jaxpr, list(constants))


def called_jaxpr(equation: Any) -> Any | None:
    """The jaxpr that an equation calls exactly once, or None if it is not such a call."""
    name = _CALLS.get(equation.primitive)
    return None if name is None else equation.params[name]


def checked_operands(equation: Any) -> tuple[int, ...] | None:
    """The positions of the operands that a `cond` gives back that only checks; None for any other equation.

    Such a check, as `equinox.error_if`, gives them as they are in one branch, and asks the host to raise in
    all others.
    """
    if equation.primitive is not cond_p:
        return None
    branches = [open_jaxpr(branch)[0] for branch in equation.params["branches"]]
    plain = [branch for branch in branches if not branch.eqns]
    raising = [branch for branch in branches if branch.eqns]
    calls = [e.primitive.name for branch in raising for e in branch.eqns]
    if len(plain) != 1 or not raising or set(calls) != {"pure_callback"}:
        return None
    (branch,) = plain
    if not all(x in branch.invars for x in branch.outvars if not isinstance(x, Literal)):
        return None
    if any(isinstance(x, Literal) for x in branch.outvars):
        return None
    return tuple(1 + branch.invars.index(x) for x in branch.outvars)


def scan_operands(equation: Any) -> tuple[int, int]:
    """How many constants and how many carries are the first operands of a scan."""
    params = equation.params
    if "num_consts" in params:  # before jax 0.11
        return params["num_consts"], params["num_carry"]
    constants, carries, _ = params["ft_in"].unpack()
    return len(constants.vals), len(carries.vals)


def bind_equation(equation: Any, *arrays: Any) -> tuple[Any, ...]:
    """The results of one jaxpr equation, under the context, the names and the lines it was traced with."""
    primitive, info = equation.primitive, equation.source_info
    names = source_info_util.current_name_stack() + info.name_stack
    with source_info_util.user_context(info.traceback, name_stack=names), equation.ctx.manager:
        results = primitive.bind(*arrays, **primitive.get_bind_params(equation.params))
    return tuple(results) if primitive.multiple_results else (results,)


def evaluator(equation: Any) -> Callable[..., tuple[Any, ...]]:
    """`arrays -> results` of one jaxpr equation, under the context it was traced in."""
    primitive, params = equation.primitive, equation.params

    def evaluate(*arrays: Any) -> tuple[Any, ...]:
        with equation.ctx.manager:
            results = primitive.bind(*arrays, **primitive.get_bind_params(params))
        return tuple(results) if primitive.multiple_results else (results,)

    return evaluate


def jit_options(equation: Any) -> dict[str, Any]:
    """The options of `jax.jit` that say where arrays lie or how to compile; empty for a plain call."""
    params = equation.params
    options = {
        name: params[name]
        for name in ("in_shardings", "out_shardings")
        if not all(isinstance(x, UnspecifiedValue) for x in params[name])
    }
    if params["compiler_options_kvs"]:
        options["compiler_options"] = dict(params["compiler_options_kvs"])
    return options


def shard_map_like(equation: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of shards, mapped as that of a `shard_map` equation."""
    params = equation.params
    axes = params["newly_manual_axes" if "newly_manual_axes" in params else "manual_axes"]
    mapped: Callable[..., Any] = jax.shard_map(
        function,
        mesh=params["mesh"],
        in_specs=tuple(params["in_specs"]),
        out_specs=list(params["out_specs"]),
        axis_names=axes,
        check_vma=params["check_vma"],
    )
    return mapped


def scan_like(equation: Any, body: Callable[..., Sequence[Any]]) -> Callable[..., list[Any]]:
    """A function from the operands of a `scan` equation to its results, by another body of arrays."""
    params = equation.params
    split, carries = scan_operands(equation)

    def scan(*operands: Any) -> list[Any]:
        constants, given, slices = (
            operands[:split], operands[split : split + carries], operands[split + carries :],
        )  # fmt: skip

        def step(carry: Any, slices: Any) -> tuple[list[Any], list[Any]]:
            results = list(body(*constants, *carry, *slices))
            return results[:carries], results[carries:]

        last, stacks = jax.lax.scan(
            step,
            list(given),
            list(slices),
            params["length"],
            reverse=params["reverse"],
            unroll=params["unroll"],
            _split_transpose=bool(params.get("_split_transpose", False)),  # private wherever it is
        )
        return [*last, *stacks]

    return scan


def exclude_from_sources(folder: str) -> None:
    """Files of the folder are not the user's: an operation's line is that of whoever called them."""
    source_info_util.register_exclusion(folder)


def source_line(equation: Any) -> str:
    """`file:line (function)` of the user's code that made an equation."""
    return source_info_util.summarize(equation.source_info)


def coordination_client() -> Any | None:
    """The client of the key-value store that the processes of a program share; None if alone."""
    return _distributed.global_state.client


def coordinator_address() -> str | None:
    """Where the service of the processes of a program listens, "host:port"; None if alone."""
    address: str | None = _distributed.global_state.coordinator_address
    return address


def has_triton() -> bool:
    """Whether Pallas has its way to Triton, which JAX deprecates from 0.11; it is imported to see."""
    try:
        import jax.experimental.pallas.triton  # noqa: F401
    except ImportError:
        return False
    return True


def has_preemption_service() -> bool:
    """Whether processes learn together that one of them is to stop (`jax_enable_preemption_service`)."""
    return _distributed.global_state.preemption_sync_manager is not None


def outside_of_traces() -> Any:
    """A context in which known arrays are computed with although something is being traced.

    As `jax.ensure_compile_time_eval`, which also evaluates constants one by one while a jitted function is
    traced in it.
    """
    return _core.eval_context()


def is_traced(value: Any) -> bool:
    """Whether a value is traced, so that it cannot be looked at."""
    return isinstance(value, jax.core.Tracer)


def register_lowering(
    primitive: Any, rule: Callable[..., Any], platform: str | None = None, inline: bool = True
) -> None:
    """How a primitive is lowered: `rule(context, *operands, **params)`; for all platforms if None.

    Without `inline` equal equations share one function of the primitive's name.
    """
    mlir.register_lowering(primitive, rule, platform=platform, inline=inline)


def lower_as_traced(primitive: Any, function: Callable[..., Any]) -> None:
    """Lowers a primitive of one result as the operations that a function of the same parameters traces."""
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=False))


def is_whole_on_each_device(ctx: Any) -> bool:
    """Says in a lowering rule whether each device that runs an equation holds all of its operands."""
    context = ctx.module_context.axis_context
    if isinstance(context, mlir.SPMDAxisContext):
        manual = {*context.manual_axes, *getattr(context.mesh, "manual_axes", ())}
        return manual >= set(context.mesh.axis_names)
    return isinstance(context, mlir.ShardingContext) and context.num_devices == 1


def lower_as_composite(
    name: str,
    version: int,
    function: Callable[..., Any],
    attributes: dict[str, Any],
    ctx: Any,
    *operands: ir.Value,
) -> Any:
    """Gives in a lowering rule the values of `function` as one operation that is decomposed into it.

    Other MLIR tools can match `stablehlo.composite "pjax.project_dot" ... version = 1` and replace it; others
    run its decomposition. `jax.lax.composite` would do for one platform, but the composites it makes in an
    export for several do not pass the verifier (jax issue 40486). Where a shape is symbolic the function is
    lowered in place: shapes are not refined through composites.

    **Arguments:** `attributes`: numbers, strings and booleans stay what they are, others become text.
    """
    lowered = mlir.lower_fun(function, multiple_results=True)
    if not all(isinstance(size, int) for aval in (*ctx.avals_in, *ctx.avals_out) for size in aval.shape):
        return lowered(ctx, *operands)
    module, outer = ctx.module_context, tuple(ctx.dim_var_values)
    results = [_ir_type(ctx, aval) for aval in ctx.avals_out]
    inputs = (*outer, *operands)
    dialects: tuple[Any, Any] = func, stablehlo  # whose stubs lack what Python adds to them
    function_op, composite_op = dialects[0].FuncOp, dialects[1].CompositeOp
    decomposition = function_op(
        f"{name}.v{version}", ir.FunctionType.get([x.type for x in inputs], results), ip=module.ip
    )
    decomposition.attributes["sym_visibility"] = ir.StringAttr.get("private")
    symbol = module.symbol_table.insert(decomposition).value  # which makes it unique
    body = decomposition.add_entry_block()
    with ir.InsertionPoint(body):
        inner = ctx.replace(dim_var_values=tuple(body.arguments[: len(outer)]), tokens_out=None)
        func.return_(list(lowered(inner, *body.arguments[len(outer) :])))
    return composite_op(
        results,
        list(inputs),
        name=ir.StringAttr.get(name),
        decomposition=ir.FlatSymbolRefAttr.get(symbol),
        composite_attributes=ir.DictAttr.get({k: _attribute(v) for k, v in sorted(attributes.items())}),
        version=mlir.i32_attr(version),
    ).results


_BODIES: dict[Any, tuple[str, ...]] = {
    cond_p: ("branches",),
    primitives.scan_p: ("jaxpr",),
    primitives.while_p: ("cond_jaxpr", "body_jaxpr"),
}


def with_bodies(equation: Any, change: Callable[[Any], Any]) -> Any:
    """A loop or branch with its jaxprs changed; any other equation as it is."""
    params, names = equation.params, _BODIES.get(equation.primitive, ())
    changed = {
        name: tuple(map(change, params[name])) if isinstance(params[name], tuple) else change(params[name])
        for name in names
    }
    return equation.replace(params={**params, **changed}) if changed else equation


def lower_as_map(primitive: Any) -> None:
    """Lowers a primitive on CPU as the map of its parameter `function`, a function of scalars."""

    def rule(ctx: Any, *operands: ir.Value, function: Callable[..., Any], **_: Any) -> Any:
        lowered = mlir.lower_fun(function, multiple_results=False)
        scalars = [aval.update(shape=()) for aval in (*ctx.avals_in, *ctx.avals_out)]
        dialect: Any = stablehlo
        rank = len(ctx.avals_out[0].shape)
        operation = dialect.MapOp(
            _ir_type(ctx, ctx.avals_out[0]), list(operands), ir.DenseI64ArrayAttr.get(list(range(rank)))
        )
        block = operation.computation.blocks.append(*(_ir_type(ctx, aval) for aval in scalars[:-1]))
        with ir.InsertionPoint(block):
            inner = ctx.replace(avals_in=scalars[:-1], avals_out=scalars[-1:])
            dialect.return_(list(lowered(inner, *block.arguments)))
        if any(x.operation.name == "func.call" for x in block.operations):
            operation.operation.erase()  # XLA's emitter of loops ends the process at a call
            return lowered(ctx, *operands)
        return operation.results

    mlir.register_lowering(primitive, rule, platform="cpu")


def _attribute(value: Any) -> ir.Attribute:
    if isinstance(value, bool | int | float | str):
        return mlir.ir_attribute(value)
    return ir.StringAttr.get(str(value))


def _ir_type(ctx: Any, aval: Any) -> Any:
    """The MLIR type of an abstract value, in a lowering rule."""
    convert: Any = mlir.aval_to_ir_type
    if jax.__version_info__ >= (0, 10, 1):
        return convert(ctx.module_context, aval)
    return convert(aval)
