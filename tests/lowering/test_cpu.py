"""Rules for CPU on arrays larger than their blocks."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array
from pjax_prim.lowering import blocks

from pjax_prim import primitives as pp
from pjax_prim.primitives.curves import curve


def copies(batch: tuple[int, ...], p: int, q: int, k: int, dtype: str) -> tuple[list[Array], ...]:
    """Copies with their means and scalars, in the dtype of copies and in the one of computation."""
    keys = jax.random.split(jax.random.key(0), 5)
    a, b = (jax.random.normal(key, (*batch, p, q, k), jnp.float32).astype(dtype) for key in keys[:2])
    means = [jnp.mean(a, -2, keepdims=True), jnp.mean(b, -3, keepdims=True)]
    z = 3 * k**0.5 * jax.random.normal(keys[2], (*batch, p, q), jnp.float32).astype(dtype)
    a = a.at[..., 0, :].set(0).at[..., 1, :].set(b[..., 1, :])  # degenerate and parallel
    return [a, b], means, [z]


@cache
def compiled(definition: pp.Definition, static: tuple[tuple[str, object], ...]) -> Callable[..., Any]:
    return jax.jit(partial(definition.reference, **dict(static)))


def reference(definition: pp.Definition, operands: list[Array], **static: object) -> tuple[Array, ...]:
    """What XLA makes of the reference alone."""
    return tuple(compiled(definition, tuple(static.items()))(*operands))


def dot_step(name: str, given: tuple[list[Array], ...]) -> tuple[pp.Definition, list[Array], dict]:
    (a, b), means, (z,) = given
    relaxation = jnp.full((1,) * z.ndim, 0.35, z.dtype)
    if name == "displace_dot":
        return pp.displace_dot_p, [a, b, z], {}
    if name == "leave_dot":
        solved = reference(pp.displace_dot_p, [a, b, z])[:4]
        return pp.leave_dot_p, [a, b, *means, *solved, z, relaxation], {}
    return pp.reflect_dot_p, [a, b, *means, z, relaxation], {}


DOT_STEPS = pytest.mark.parametrize("name", ["displace_dot", "leave_dot", "reflect_dot"])


@DOT_STEPS
@pytest.mark.parametrize(
    ("sizes", "dtype"),
    [
        # Blocks are cut in one place for all dtypes: axes in front need only one of them.
        *((((), 5, 6, 4), dtype) for dtype in ("float32", "bfloat16", "float64")),
        (((2, 3), 2, 8, 3), "float32"),
        *(pytest.param(((2, 3), 2, 8, 3), x, marks=pytest.mark.slow) for x in ("bfloat16", "float64")),
    ],
    ids=str,
)
def test_dot_products_block_after_block(name: str, sizes: tuple, dtype: str, monkeypatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 8)
    definition, operands, static = dot_step(name, copies(*sizes, dtype))
    plain = reference(definition, operands, **static)
    found = jax.jit(partial(getattr(blocks, name), **static))(*operands)
    assert [(x.shape, x.dtype) for x in found] == [(x.shape, x.dtype) for x in plain]
    tolerance = {"float32": 2e-5, "bfloat16": 2e-2, "float64": 1e-12}[dtype]
    chex.assert_trees_all_close(tuple(found), plain, rtol=tolerance, atol=tolerance)


@DOT_STEPS
def test_large_dot_products_take_blocks_and_move_no_copies_else(name: str) -> None:
    definition, operands, static = dot_step(name, copies((), 16, 128, 640, "float32"))
    step = jax.jit(lambda *x: definition.bind(*x, **static), donate_argnums=(0, 1))
    if name == "displace_dot":
        step = jax.jit(lambda *x: definition.bind(*x, **static))
    lowered = step.lower(*operands)
    assert 'rule = "blocks"' in lowered.as_text()
    memory = lowered.compile().memory_analysis()
    assert memory.temp_size_in_bytes < operands[0].nbytes / 2
    few = [x[:1] if x.shape[0] > 1 else x for x in operands]
    assert 'rule = "blocks"' not in jax.jit(lambda *x: definition.bind(*x, **static)).lower(*few).as_text()


@DOT_STEPS
def test_blocks_inside_shard_map(name: str) -> None:
    definition, operands, static = dot_step(name, copies((2,), 4, 128, 1030, "float32"))
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    spec = jax.P("data")
    specs = tuple(spec if len(x) > 1 else jax.P() for x in operands)
    spread = jax.jit(
        jax.shard_map(
            lambda *x: tuple(definition.bind(*x, **static)), mesh=mesh, in_specs=specs, out_specs=spec
        )
    )
    expected = reference(definition, operands, **static)
    chex.assert_trees_all_close(spread(*operands), expected, rtol=1e-4, atol=1e-4)


def queries(*shape: int) -> tuple[Array, Array]:
    s, z = jax.random.normal(jax.random.key(0), (2, *shape), jnp.float32)
    return s, z


@pytest.mark.parametrize("shape", [(), (5,), (7, 3), (4, 3, 5), (12, 4, 2)], ids=str)
def test_results_stored_block_after_block_are_the_same(shape: tuple[int, ...]) -> None:
    def function(s: Array, z: Array, scale: float) -> tuple[Array, Array]:
        s = s.astype("float32")
        return jnp.sin(s) * z, scale * s - z

    in_blocks = blocks.elementwise(function, block_size=20)
    for s, z in (queries(*shape), (queries(*shape)[0].astype("bfloat16"), queries(*shape)[1])):
        plain = function(s, z, 2.0)
        chex.assert_trees_all_close(jax.jit(partial(in_blocks, scale=2.0))(s, z), plain, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-4, 0.02, 3.0], ids="{:g}".format)
@pytest.mark.parametrize(
    "function", ["sqrt", *(pytest.param(x, marks=pytest.mark.slow) for x in ("tanh", "gelu"))]
)
def test_scalar_functions_of_large_arrays(function: str, scale: float) -> None:
    """Blocks whose targets are all very near, near, or far, and one that is both."""
    x, apart = jnp.abs(queries(3 * 2**14 + 5)[0]), scale * queries(3 * 2**14 + 5)[1]
    x = x.at[7].set(3e-6)
    z = curve(function).value(x) + apart
    static = {"function": function, "parameters": ()}
    found = pp.displace_scalar_p.bind(x, z, **static)
    wide = [a.astype("float64") for a in (x, z)]
    plain = reference(pp.displace_scalar_p, wide, **static)

    def cost(step: Array, output: Array) -> Array:
        return jnp.square(step) + jnp.square(output - z)

    np.testing.assert_allclose(cost(*found), cost(*plain), rtol=1e-4, atol=1e-9)
    if scale == 1e-4:
        np.testing.assert_allclose(found[0], plain[0], rtol=1e-3, atol=3e-7)


def test_the_relu_of_large_sums() -> None:
    s, z = queries(6, 2**18)  # three blocks of jax 0.10
    plain = reference(pp.displace_sum_relu_p, [s, z], inputs=2)
    lowered = jax.jit(lambda s, z: pp.displace_sum_relu_p.bind(s, z, inputs=2))
    chex.assert_trees_all_close(tuple(lowered(s, z)), plain, rtol=1e-6)
