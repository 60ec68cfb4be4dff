"""The transformer: what its settings mean, in each way of training."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import pjax_prim as pjp
from pjax_prim.models import Transformer
from pjax_prim.models.attention import causal_attention, rotated

KEY = jax.random.key(0)
TOKENS = jax.random.randint(KEY, (2, 6), 0, 5)
MODERN: dict[str, Any] = {
    "groups": 2,
    "inner": 12,
    "positions": "rotary",
    "norm": "rms",
    "gated": True,
    "bias": False,
    "tied": True,
}


def make(blocks: int = 2, **settings: Any) -> Transformer:
    return Transformer(5, 6, 8, blocks, key=KEY, **settings)


def loss(model: Any, tokens: Array) -> Array:
    return pjp.cross_entropy(jax.vmap(model)(tokens[:, :-1]), tokens[:, 1:])


def arrays(tree: Any) -> list[Array]:
    return jax.tree.leaves(eqx.filter(tree, eqx.is_array))


@pytest.mark.parametrize(("groups", "block"), [(1, 4), (2, 5), (4, 16), (4, None)])
def test_attention_is_that_of_jax(groups: int, block: int | None) -> None:
    keys = jax.random.split(KEY, 3)
    query, key, value = (
        jax.random.normal(k, (10, n, 6), jnp.float32) for k, n in zip(keys, (4, groups, groups), strict=True)
    )
    found, expected = jax.jit(
        lambda *x: (causal_attention(*x, block), jax.nn.dot_product_attention(*x, is_causal=True))
    )(query, key, value)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_blocks_of_attention_are_not_kept() -> None:
    def residuals(block: int | None) -> list[tuple[int, ...]]:
        x = jax.ShapeDtypeStruct((16, 1, 4), jnp.float32)
        _, pull = jax.eval_shape(lambda x: jax.vjp(lambda x: causal_attention(x, x, x, block), x), x)
        return [leaf.shape for leaf in jax.tree.leaves(pull) if hasattr(leaf, "shape")]

    assert (1, 1, 16, 16) in residuals(None)
    assert max(np.prod(shape) for shape in residuals(4)) <= 16 * 4


def test_rotary_positions_are_relative() -> None:
    x, y = jax.random.normal(KEY, (2, 7, 3, 4))
    np.testing.assert_allclose(jnp.linalg.norm(rotated(x), axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-6)
    same = jnp.broadcast_to(x[:1], x.shape), jnp.broadcast_to(y[:1], y.shape)
    products = jnp.einsum("shd,Shd->hsS", *map(rotated, same))
    for offset in (-2, 0, 3):
        diagonal = jnp.diagonal(products, offset, 1, 2)
        np.testing.assert_allclose(diagonal, diagonal[:, :1] + 0 * diagonal, rtol=1e-5)
    assert not np.allclose(products[:, 0, 1], products[:, 0, 2])


@pytest.mark.parametrize("settings", [{}, MODERN], ids=["small", "modern"])
def test_a_stack_is_its_blocks_one_after_the_other(settings: dict[str, Any]) -> None:
    model = make(3, **settings)
    (first, *_) = arrays(model.blocks)
    assert first.shape[0] == 3
    x = jax.vmap(model.embedding)(TOKENS[0])
    x = x + model.positions if model.positions is not None else x * 8**0.5
    for i in range(3):
        x = jax.tree.map(lambda a, i=i: a[i] if eqx.is_array(a) else a, model.blocks)(x)
    x = jax.vmap(model.norm)(x)
    expected = x @ model.embedding.weight.T if model.output is None else jax.vmap(model.output)(x)
    np.testing.assert_allclose(model(TOKENS[0]), expected, rtol=1e-5, atol=1e-6)
    changed = model(TOKENS[0].at[3].add(1))
    np.testing.assert_array_equal(np.any(changed != model(TOKENS[0]), 1), [False] * 3 + [True] * 3)


@pytest.mark.parametrize(
    "remat", ["attention", *(pytest.param(x, marks=pytest.mark.slow) for x in ("products", "all"))]
)
def test_what_is_computed_once_more_changes_nothing(remat: Any) -> None:
    plain, again = make(**MODERN), make(**MODERN, remat=remat, attention_block=2)
    flat = []
    for direct in (pjp.displacement, eqx.filter_grad):
        found = [
            arrays(eqx.filter_jit(direct(lambda model, x: jnp.mean(loss(model, x))))(model, TOKENS))
            for model in (plain, again)
        ]
        for a, b in zip(*found, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)
        flat.append(np.concatenate([np.ravel(x) for x in found[1]]))
    moved, gradient = flat
    assert moved @ gradient > 0.95 * np.linalg.norm(moved) * np.linalg.norm(gradient)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, MODERN], ids=["small", "modern"])
def test_projections_train_it(settings: dict[str, Any]) -> None:
    model = make(2, **settings)
    solution = pjp.solve(loss, model, TOKENS, solver=pjp.AlternatingProjections(), max_steps=20)
    assert jnp.mean(loss(solution.params, TOKENS)) < jnp.mean(loss(model, TOKENS))


def test_bfloat16() -> None:
    model = make(**MODERN, dtype=jnp.bfloat16)
    assert {x.dtype for x in arrays(model)} == {jnp.dtype("bfloat16")}
    logits = model(TOKENS[0])
    assert logits.dtype == jnp.float32
    wide = jax.tree.map(lambda x: x.astype(jnp.float32) if eqx.is_array(x) else x, model)
    np.testing.assert_allclose(logits, wide(TOKENS[0]), atol=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"groups": 3}, "groups: expected a divisor of heads, 4, given 3"),
        ({"attention_block": 0}, "attention_block: expected at least 1, given 0"),
        ({"positions": "sinus"}, "positions: expected one of learned, rotary, given 'sinus'"),
        ({"norm": "batch"}, "norm: expected one of layer, rms, given 'batch'"),
        ({"remat": "some"}, "remat: expected one of none, products, attention, all, given 'some'"),
        ({"positions": "rotary", "heads": 8}, "width: expected an even size of each of 8 heads, given 1"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)
