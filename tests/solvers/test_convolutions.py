"""Convolutions of solvers that store parameters alone: in loops XLA's CPU backend is slow with most."""

import re

import chex
import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jaxtyping import Array

import pjax_prim as pjp
from pjax_prim.primitives import convolve_p
from pjax_prim.primitives._window import Window


def normal(seed: int, *shape: int) -> Array:
    return jax.random.normal(jax.random.key(seed), shape)


def loss(filters: list[Array], x: Array, target: Array, groups: int = 1) -> Array:
    for index, w in enumerate(filters):
        x = lax.conv_general_dilated(x, w, (1 + index, 1), "SAME", feature_group_count=groups)
        x = jnp.tanh(x)
    return pjp.squared_error(x.reshape(len(x), -1), target)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("solver", [pjp.JointProjections(), pjp.ExtrapolatedProjections()])
def test_all_of_them_are_channels_last(solver: pjp.AbstractSolver, groups: int) -> None:
    filters = [normal(0, 4, 2 // groups, 3, 3), normal(1, 4, 4 // groups, 3, 2)]
    x, target = normal(2, 5, 2, 6, 6), normal(3, 5, 4 * 3 * 6)

    def run(filters: list[Array], x: Array, target: Array) -> list[Array]:
        return pjp.solve(
            lambda *args: loss(*args, groups), filters, x, target, solver=solver, max_steps=2
        ).params

    text = jax.jit(run).lower(filters, x, target).as_text()
    layouts = re.findall(r"dim_numbers = (\[.*?\]x\[.*?\]->\[.*?\])", text)
    assert len(layouts) >= 4
    assert set(layouts) == {"[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"}


def test_the_derivative_of_one_is_made_of_themselves() -> None:
    """With an axis before the batch that the filters have in common."""
    window = Window((3, 2), (2, 1), ((1, 1), (0, 1)), (1, 1), (1, 1))
    x, w = normal(0, 3, 5, 2, 6, 6), normal(1, 1, 4, 2, 3, 2)

    def by_primitive(x: Array, w: Array) -> Array:
        return convolve_p.bind(x, w, window=window, precision=None, output_dtype=None)[0]

    def plain(x: Array, w: Array) -> Array:
        return jax.vmap(lambda x: window.convolve(x, w[0], None))(x)

    tangents, cotangent = (normal(2, *x.shape), normal(3, *w.shape)), normal(4, *plain(x, w).shape)
    for f, names in ((by_primitive, {"pjax_convolve", "pjax_spread", "pjax_correlate"}), (plain, None)):

        def directions(x: Array, w: Array, f=f) -> tuple[Array, ...]:
            return jax.jvp(f, (x, w), tangents)[1], *jax.vjp(f, x, w)[1](cotangent)

        if names is not None:
            jaxpr = jax.make_jaxpr(directions)(x, w)
            found = {equation.primitive.name for equation in jaxpr.eqns}
            assert names <= found and "conv_general_dilated" not in found
            expected = directions(x, w)
        else:
            chex.assert_trees_all_close(directions(x, w), expected, atol=1e-12)
    by_filters = jax.grad(lambda w: jnp.sum(jnp.sin(by_primitive(x, w))))
    chex.assert_trees_all_close(
        jax.jvp(by_filters, (w,), (tangents[1],))[1],
        jax.jvp(jax.grad(lambda w: jnp.sum(jnp.sin(plain(x, w)))), (w,), (tangents[1],))[1],
        atol=1e-9,
    )
