"""Rules for CPU.

An elementwise function as long as the solve of a dot projection becomes many loops there, so a
branch for the usual case, that all targets are near, saves more than it costs; taken block by block
its arrays stay small. Block sizes are measured.

XLA's CPU backend walks a reduction over a leading axis column by column, a stride of a whole
matrix apart (measured: 112 ms for 100 MB, against 2.4 ms as a product with a vector of ones).
With batch axes before it the plain mean is the faster one (9 ms against 50 ms).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from pjax_prim._compat import KEEPS_BARRIERS, evaluator
from pjax_prim.primitives import (
    convolve_p,
    correlate_p,
    displace_dot_p,
    displace_scalar_p,
    displace_sum_relu_p,
    leave_dot_p,
    mean_rows_p,
    project_convolution_p,
    project_linear_p,
    project_logsumexp_p,
    project_scalar_p,
    project_softmax_p,
    reflect_dot_p,
    spread_p,
)
from pjax_prim.primitives._window import Window
from pjax_prim.primitives.convolution import reference as convolution_reference
from pjax_prim.primitives.linear import answer_blockwise
from pjax_prim.primitives.linear import reference as linear_reference
from pjax_prim.primitives.scalar import Mode
from pjax_prim.primitives.sum_relu import displace_reference as displace_sum_relu
from pjax_prim.primitives.sum_relu import moved_output
from pjax_prim.walking import walk

from . import blocks
from .registry import Rule, register


def _mean_rows(x: Array) -> tuple[Array, ...]:
    if math.prod(x.shape[:-3]) > 1:
        return mean_rows_p.reference(x)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    rows = x.ndim - 3
    mean = lax.dot_general(
        jnp.full(x.shape[rows], 1 / x.shape[rows], wide),
        x.astype(wide),
        (((0,), (rows,)), ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=wide,
    )
    return (mean.astype(x.dtype),)


register(mean_rows_p, Rule("product", _mean_rows, when="always: means over rows as products"), "cpu")
register(
    project_linear_p,
    Rule(
        "blocks",
        partial(linear_reference, answer=partial(answer_blockwise, block_size=2**20)),
        local=True,
        when="one device: the solve block after block, short where all targets are near",
        again=4,
    ),
    "cpu",
)


def _channels_last(function: Callable[..., tuple[Array, ...]]) -> Callable[..., tuple[Array, ...]]:
    """`function` with its convolutions in the one layout that is fast everywhere.

    XLA's CPU backend gives others to a library only outside of loops; inside, where solvers run, they
    take 30 times as long (jax issue 12868).
    """

    def apply(*arrays: Array, **static: Any) -> tuple[Array, ...]:
        def run(equation: Any, operands: Sequence[Array]) -> tuple[Array, ...]:
            if equation.primitive is lax.conv_general_dilated_p:
                return _convolve(equation.params, *operands)
            return evaluator(equation)(*operands)

        return tuple(walk(jax.make_jaxpr(partial(function, **static))(*arrays), arrays, lambda x: x, run))

    return apply


def _convolve(params: dict[str, Any], lhs: Array, rhs: Array) -> tuple[Array]:
    """A convolution of arrays that are stored channels-last."""
    dims = params["dimension_numbers"]
    lhs_batch, lhs_channel, *lhs_spatial = dims.lhs_spec
    rhs_output, rhs_input, *rhs_spatial = dims.rhs_spec
    batch, channel, *spatial = dims.out_spec
    # Without the barriers the transpositions become part of the convolution again.
    lhs, rhs = lax.optimization_barrier(
        (
            jnp.transpose(lhs, (lhs_batch, *lhs_spatial, lhs_channel)),
            jnp.transpose(rhs, (*rhs_spatial, rhs_input, rhs_output)),
        )
    )
    last = lhs.ndim - 1
    array = (0, last, *range(1, last))
    layout = lax.ConvDimensionNumbers(array, (last, last - 1, *range(last - 1)), array)
    result = lax.conv_general_dilated_p.bind(lhs, rhs, **{**params, "dimension_numbers": layout})
    order = (batch, *spatial, channel)
    return (jnp.transpose(lax.optimization_barrier(result), [order.index(i) for i in range(last + 1)]),)


for _definition in (convolve_p, correlate_p, spread_p):
    register(
        _definition,
        Rule("channels_last", _channels_last(_definition.reference), when="always: fast inside loops, too"),
        "cpu",
    )
_at_once = _channels_last(partial(correlate_p.reference, correlate=Window.correlate_at_once))
register(
    correlate_p,
    Rule("channels_last_at_once", _at_once, local=True, when="one device: one convolution, with groups, too"),
    "cpu",
)
register(
    project_convolution_p,
    Rule(
        "channels_last_blocks",
        _channels_last(
            partial(
                convolution_reference,
                answer=partial(answer_blockwise, block_size=2**17),
                correlate=Window.correlate_at_once,
            )
        ),
        local=True,
        when="one device: as convolve and project_linear",
    ),
    "cpu",
)


def _stored(function: Callable[..., tuple[Array, ...]]) -> Callable[..., tuple[Array, ...]]:
    """Results that are stored: else each of their readers computes them anew."""

    def apply(*arrays: Array, **static: Any) -> tuple[Array, ...]:
        results: tuple[Array, ...] = lax.optimization_barrier(function(*arrays, **static))
        return results

    return apply


register(
    displace_sum_relu_p,
    Rule("stored", _stored(displace_sum_relu_p.reference), when="always: results are computed once"),
    "cpu",
)


def _moved_output(total: Array, change: Array, inputs: int | Array) -> Array:
    number = (inputs,) if isinstance(inputs, jax.Array) else ()
    store = blocks.elementwise(lambda s, d, *k: (moved_output(s, d, *k or (inputs,)),), block_size=2**20)
    return store(total, change, *number)[0]


if not KEEPS_BARRIERS:
    register(
        displace_sum_relu_p,
        Rule(
            "blocks",
            partial(displace_sum_relu, output=_moved_output),
            local=True,
            when="jax 0.10, one device: stores its results by a loop",
        ),
        "cpu",
    )

for _definition in (displace_scalar_p, project_scalar_p):
    register(
        _definition,
        Rule(
            "blocks",
            blocks.elementwise(partial(_definition.reference, mode=Mode(stops=True)), block_size=2**16),
            local=True,
            when="one device: block after block, short where all targets are near",
            again=4,
        ),
        "cpu",
    )
register(
    project_softmax_p,
    Rule(
        "blocks",
        blocks.rows(partial(project_softmax_p.reference, stops=True), block_size=2**15),
        local=True,
        when="one device: block after block, short where targets are near",
    ),
    "cpu",
)


def _project_logsumexp(a: Array, z: Array) -> tuple[Array, ...]:
    """Block after block; targets are vectors of one number."""
    of_rows = blocks.rows(
        lambda a, z: project_logsumexp_p.reference(a, z[..., 0], stops=True), block_size=2**15
    )
    return of_rows(a, z[..., None])


register(
    project_logsumexp_p,
    Rule(
        "blocks",
        _project_logsumexp,
        local=True,
        when="one device: block after block, short where targets are near",
    ),
    "cpu",
)
for _definition, _rule in (
    (displace_dot_p, blocks.displace_dot),
    (leave_dot_p, blocks.leave_dot),
    (reflect_dot_p, blocks.reflect_dot),
):
    register(
        _definition,
        Rule(
            "blocks",
            _rule,
            local=True,
            supports=lambda *operands, **static: blocks.divides(operands[0]),
            when="one device, a million copies and more: block after block, each copy moves once",
        ),
        "cpu",
    )
