"""Rules for CPU on arrays larger than their blocks."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array
from pjax_prim.lowering import cpu

from pjax_prim import primitives as pp


def queries(*shape: int) -> tuple[Array, Array]:
    s, z = jax.random.normal(jax.random.key(0), (2, *shape), jnp.float32)
    return s, z


@pytest.mark.parametrize("shape", [(), (5,), (7, 3), (4, 3, 5), (12, 4, 2)], ids=str)
def test_results_stored_block_after_block_are_the_same(shape: tuple[int, ...]) -> None:
    def function(s: Array, z: Array, scale: float) -> tuple[Array, Array]:
        s = s.astype("float32")
        return jnp.sin(s) * z, scale * s - z

    blocks = cpu._in_blocks(function, block_size=20)
    for s, z in (queries(*shape), (queries(*shape)[0].astype("bfloat16"), queries(*shape)[1])):
        plain = function(s, z, 2.0)
        chex.assert_trees_all_close(jax.jit(partial(blocks, scale=2.0))(s, z), plain, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-4, 0.02, 3.0], ids="{:g}".format)
@pytest.mark.parametrize("function", ["tanh", "sqrt", "gelu"])
def test_scalar_functions_of_large_arrays(function: str, scale: float) -> None:
    """Blocks whose targets are all very near, near, or far, and one that is both."""
    x, z = jnp.abs(queries(3 * 2**14 + 5)[0]), scale * queries(3 * 2**14 + 5)[1]
    x = x.at[7].set(3e-6)
    static = {"function": function, "parameters": ()}
    found = pp.displace_scalar_p.bind(x, z, relative=True, **static)
    plain = pp.displace_scalar_p.reference(*(a.astype("float64") for a in (x, z)), relative=True, **static)

    def cost(step: Array, change: Array) -> Array:
        return jnp.square(step) + jnp.square(change - z)

    np.testing.assert_allclose(cost(*found), cost(*plain), rtol=1e-4, atol=1e-9)
    if scale == 1e-4:
        np.testing.assert_allclose(found[0], plain[0], rtol=1e-3, atol=1e-9)


def test_the_relu_of_large_sums() -> None:
    s, z = queries(6, 2**18)  # three blocks of jax 0.10
    plain = pp.displace_sum_relu_p.reference(s, z, inputs=2)
    lowered = jax.jit(lambda s, z: pp.displace_sum_relu_p.bind(s, z, inputs=2))
    chex.assert_trees_all_close(tuple(lowered(s, z)), plain, rtol=1e-6)
