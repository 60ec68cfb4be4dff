"""A function of arrays as a composite operation of StableHLO, with a name and a version.

Other MLIR tools can match `stablehlo.composite "pjax.project_dot" ... version = 1` and replace it; others
run its decomposition. `jax.lax.composite` would do for one platform, but the composites it makes in an
export for several do not pass the verifier (jax issue 40486).
"""

from collections.abc import Callable
from typing import Any

from jax.extend.mlir import ir
from jax.extend.mlir.dialects import func, stablehlo
from jax.interpreters import mlir

from pjax_prim._compat import ir_type


def lower_as_composite(
    name: str,
    version: int,
    function: Callable[..., Any],
    attributes: dict[str, Any],
    ctx: mlir.LoweringRuleContext,
    *operands: ir.Value,
) -> Any:
    """Values of `function` of the operands, as one operation that is decomposed into it.

    Where a shape is symbolic the function is lowered in place: shapes are not refined through composites.

    **Arguments:** `attributes`: numbers, strings and booleans stay what they are, others become text.
    """
    lowered = mlir.lower_fun(function, multiple_results=True)
    if not all(isinstance(size, int) for aval in (*ctx.avals_in, *ctx.avals_out) for size in aval.shape):
        return lowered(ctx, *operands)
    module, outer = ctx.module_context, tuple(ctx.dim_var_values)
    results = [ir_type(ctx, aval) for aval in ctx.avals_out]
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


def _attribute(value: Any) -> ir.Attribute:
    if isinstance(value, bool | int | float | str):
        return mlir.ir_attribute(value)
    return ir.StringAttr.get(str(value))
