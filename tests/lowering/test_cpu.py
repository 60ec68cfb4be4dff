"""Rules for CPU on arrays larger than their blocks."""

import chex
import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array
from pjax_prim.lowering import cpu

from pjax_prim import primitives as pp
from pjax_prim.primitives.sum_relu import moved_output


def queries(*shape: int) -> tuple[Array, Array]:
    s, z = jax.random.normal(jax.random.key(0), (2, *shape), jnp.float32)
    return s, z


@pytest.mark.parametrize("shape", [(), (5,), (7, 3), (4, 3, 5), (12, 4, 2)], ids=str)
def test_results_stored_block_after_block_are_the_same(shape: tuple[int, ...]) -> None:
    function = cpu._in_blocks(moved_output, block_size=20)
    plain = moved_output(*queries(*shape), 2)
    chex.assert_trees_all_close(jax.jit(lambda s, d: function(s, d, 2))(*queries(*shape)), plain, rtol=1e-6)


def test_the_relu_of_large_sums() -> None:
    s, z = queries(6, 2**18)  # three blocks of jax 0.10
    plain = pp.displace_sum_relu_p.reference(s, z, inputs=2)
    lowered = jax.jit(lambda s, z: pp.displace_sum_relu_p.bind(s, z, inputs=2))
    chex.assert_trees_all_close(tuple(lowered(s, z)), plain, rtol=1e-6)
