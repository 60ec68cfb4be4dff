"""Elementwise operations in few loops."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from pjax_prim.lowering.pointwise import gathered

X = np.linspace(-2, 3, 12).reshape(3, 4)
Function = Callable[..., tuple[Any, ...]]


def newton(x: Any, z: Any) -> tuple[Any, ...]:
    t = z / (1 + x * x)
    for _ in range(3):
        t = t - (t + jnp.tanh(t) - z) / (2 - jnp.tanh(t) ** 2)
    return (t,)


def two_results(x: Any, z: Any) -> tuple[Any, ...]:
    root = jnp.sqrt(1 + x * x)
    return root / (1 + root), root * jnp.exp(-z)


def branches(x: Any, z: Any) -> tuple[Any, ...]:
    return lax.cond(jnp.max(x) > 0, lambda: newton(x, z), lambda: (jnp.exp(-x) / (1 + z * z),))


def loop(x: Any, z: Any) -> tuple[Any, ...]:
    def step(i: Any, t: Any) -> Any:
        return t - (t + jnp.tanh(t) - z) / (2 - jnp.tanh(t) ** 2) * (i < 3)

    return (lax.fori_loop(0, 4, step, x),)


def scan(x: Any, z: Any) -> tuple[Any, ...]:
    def step(carry: Any, row: Any) -> tuple[Any, Any]:
        carry = jnp.log1p(carry * carry) / (1 + row)
        return carry, carry * 2

    return lax.scan(step, z[0], x * x)


def whole_numbers(x: Any, z: Any) -> tuple[Any, ...]:
    bits = lax.bitcast_convert_type(x.astype("float32"), jnp.int32)
    third = (bits.astype("float32") / 3).astype("int32") + 709921077
    return lax.bitcast_convert_type(third, jnp.float32) / 3, jnp.where(x > z, jnp.floor(x / 2), z)


def of_one_number(x: Any, z: Any) -> tuple[Any, ...]:
    scale = jnp.exp(jnp.sum(x)) / (1 + jnp.exp(jnp.sum(z)))
    return jnp.where(scale > 1, x / scale, jnp.clip(x, -scale, scale) / 2), scale


def of_none(x: Any, z: Any) -> tuple[Any, ...]:
    return jnp.full(x.shape, 2.0, x.dtype) / jnp.exp(jnp.ones(x.shape, x.dtype)), x


def halves(x: Any, z: Any) -> tuple[Any, ...]:
    wide = jnp.exp(x.astype("bfloat16").astype(x.dtype)) / 3
    return wide.astype("bfloat16"), (wide * z).astype("float16") / 2


def powers(x: Any, z: Any) -> tuple[Any, ...]:
    return jnp.exp(x) ** 5 / (1 + z**4), jnp.abs(x) ** 0.7 / 2


@pytest.mark.parametrize(
    ("function", "maps"),
    [
        (newton, 1),
        (two_results, 3),  # the root is read by both
        (branches, 2),
        (loop, 1),
        (scan, 1),
        (whole_numbers, 2),
        (of_one_number, 2),
        (of_none, 0),
        (halves, 1),
        (powers, 2),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_values_from_few_loops(function: Function, maps: int, dtype: str) -> None:
    operands = jnp.asarray(X, dtype), jnp.asarray(X[::-1] / 2, dtype)
    plain = jax.jit(function)
    lowered = jax.jit(gathered("scope", plain, 0)).lower(*operands)
    text = lowered.as_text()
    assert text.count("stablehlo.map") == maps
    chex.assert_trees_all_close(
        lowered.compile()(*operands), plain(*operands), rtol=8 * float(jnp.finfo(dtype).eps)
    )


@pytest.mark.parametrize(("again", "maps"), [(0, 3), (1, 2)])
def test_what_is_computed_again_is_no_loop_of_its_own(again: int, maps: int) -> None:
    """Here the root, which both results read."""
    operands = jnp.asarray(X), jnp.asarray(X[::-1])
    lowered = jax.jit(gathered("scope", jax.jit(two_results), again)).lower(*operands)
    assert lowered.as_text().count("stablehlo.map") == maps
    chex.assert_trees_all_close(lowered.compile()(*operands), two_results(*operands), rtol=1e-14)


def test_equal_operations_are_one_and_what_nothing_reads_is_none() -> None:
    def function(x: Any, z: Any) -> tuple[Any, ...]:
        jnp.exp(z) / 3  # nothing reads it
        return (jnp.exp(x) / (1 + jnp.exp(x)),)

    operands = jnp.asarray(X), jnp.asarray(X)
    text = jax.jit(gathered("scope", jax.jit(function), 0)).lower(*operands).as_text()
    assert text.count("stablehlo.exponential") == 1


REDUCTIONS = {"sum": jnp.sum, "max": jnp.max, "min": jnp.min, "any": jnp.any, "all": jnp.all}


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("shape", [(40, 3), (3, 97), (5, 6, 7), (200, 30), (0, 3)], ids=str)
def test_reductions_of_few_numbers_keep_their_values(name: str, shape: tuple[int, ...]) -> None:
    """Without the loops that XLA makes of an axis that is longer than 32, if it has factors up to 32."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal(shape), "float32")
    axes = tuple(range(len(shape) - 1))
    if name in ("any", "all"):
        x = x > (1.8 if name == "any" else -1.8)
    elif name != "sum" and 0 in shape:
        return
    plain = jax.jit(lambda x: (REDUCTIONS[name](x, axes),))
    compiled = jax.jit(gathered("scope", plain, 0)).lower(x).compile()
    chex.assert_trees_all_close(compiled(x), plain(x), rtol=1e-5)
    if shape == (40, 3):
        assert "reduce-window" in plain.lower(x).compile().as_text()
    assert shape == (3, 97) or x.size >= 4096 or "reduce-window" not in compiled.as_text()


def test_numbers_of_two_sizes_are_two_loops() -> None:
    """A map may have one size of floating-point numbers."""

    def function(x: Any, y: Any) -> tuple[Any, ...]:
        return (jnp.where((jnp.exp(y) / 2 > 1) & (y > 0), jnp.exp(x) / 2, x / 3),)

    operands = jnp.asarray(X, "float32"), jnp.asarray(X, "float64")
    lowered = jax.jit(gathered("scope", jax.jit(function), 0)).lower(*operands)
    assert lowered.as_text().count("stablehlo.map") == 2
    chex.assert_trees_all_close(lowered.compile()(*operands), function(*operands), rtol=1e-6)


def test_a_call_is_no_part_of_a_map() -> None:
    """XLA's emitter of loops ends the process at one: then there is no map."""
    from pjax_prim import _compat

    def called(x: Any) -> Any:
        return jax.jit(jnp.exp)(x) / 2

    pointwise = jax.extend.core.Primitive("pjax_test_pointwise")
    pointwise.def_abstract_eval(lambda x, function: x)
    _compat.lower_as_map(pointwise)
    lowered = jax.jit(lambda x: pointwise.bind(x, function=called)).lower(jnp.asarray(X))
    assert "stablehlo.map" not in lowered.as_text()
    np.testing.assert_allclose(lowered.compile()(jnp.asarray(X)), np.exp(X) / 2, rtol=1e-12)


@pytest.mark.parametrize("check_vma", [True, False])
def test_inside_of_shards(check_vma: bool) -> None:
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def function(x: Any, z: Any) -> tuple[Any, ...]:
        return lax.cond(jnp.sum(x) > 0, lambda: newton(x, z), lambda: newton(z, x))

    x, z = jnp.asarray(np.tile(X, (4, 1))), jnp.asarray(X)
    mapped = (
        jax.jit(
            jax.shard_map(
                f, mesh=mesh, in_specs=(jax.P("data"), jax.P()), out_specs=jax.P("data"), check_vma=check_vma
            )
        )
        for f in (gathered("scope", jax.jit(function), 0), function)
    )
    chex.assert_trees_all_close(*(f(x, z) for f in mapped), rtol=1e-12)
