"""The fused forms of the bilinear constraint against its plain, copy-by-copy definition."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pjax_prim import primitives as pp
from pjax_prim.rules import AbstractConstraint
from pjax_prim.rules.bilinear import Bilinear

PRODUCTS = {
    "matrix": ((4, 5), (5, 3), "ab,bc->ac"),
    "transposed": ((5, 4), (3, 5), "ba,cb->ac"),
    "vector": ((5,), (5, 3), "b,bc->c"),
    "batched": ((2, 4, 5), (2, 3, 5), "gpk,gqk->gpq"),
    "two contracted": ((4, 2, 3), (3, 2, 6), "akl,lkb->ab"),
}
SPECIAL = ("random", "zeros", "parallel", "antiparallel", "far", "tiny", "huge")


def make(product: str) -> Bilinear:
    left, right, subscripts = PRODUCTS[product]
    jaxpr = jax.make_jaxpr(lambda a, b: jax.lax.dot_general(a, b, dimensions(subscripts)))(
        jnp.zeros(left), jnp.zeros(right)
    )
    (equation,) = jaxpr.eqns
    return Bilinear((left, right), equation.params["dimension_numbers"])


def dimensions(subscripts: str):
    inputs, output = subscripts.split("->")
    a, b = inputs.split(",")
    shared = [x for x in a if x in b]
    contracted = [x for x in shared if x not in output]
    batch = [x for x in shared if x in output]
    return tuple(
        (tuple(a.index(x) for x in names), tuple(b.index(x) for x in names)) for names in (contracted, batch)
    )


def sample(product: str, special: str):
    """Operands, copies near them and a target."""
    constraint = make(product)
    keys = jax.random.split(jax.random.key(len(special)), 5)
    left, right, _ = PRODUCTS[product]
    a, b = jax.random.normal(keys[0], left), jax.random.normal(keys[1], right)
    target = jax.random.normal(keys[2], constraint.forward((a, b), ()).shape)
    if special == "zeros":
        a, b, target = 0 * a, 0 * b, 3 + target
    if special in ("parallel", "antiparallel"):
        a, b = jnp.ones(left), jnp.ones(right) * (1 if special == "parallel" else -1)
        target = 50 * target
    scale = {"far": (1, 1e6), "tiny": (1e-6, 1e-6), "huge": (1e6, 1e6)}.get(special, (1, 1))
    a, b, target = a * scale[0], b * scale[0], target * scale[1]
    noise = 0 if special in ("zeros", "parallel", "antiparallel") else 0.3 * scale[0]
    copies = tuple(
        x + noise * jax.random.normal(key, x.shape)
        for x, key in zip(constraint.expand((a, b)), keys[3:], strict=True)
    )
    return constraint, (a, b), copies, target


def size(*trees) -> float:
    return max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(trees))


@pytest.mark.parametrize("product", PRODUCTS)
def test_copies_and_averages_are_inverse(product: str) -> None:
    constraint, operands, copies, _ = sample(product, "random")
    chex.assert_trees_all_close(constraint.average(constraint.expand(operands)), operands, rtol=1e-12)
    again = constraint.expand(constraint.average(copies))
    assert [x.shape for x in again] == [x.shape for x in copies]
    chex.assert_trees_all_close(
        constraint.evaluate(constraint.expand(operands), ()), constraint.forward(operands, ()), rtol=1e-12
    )
    counts = constraint.multiplicity([x.shape for x in operands])
    assert [n * x.size for n, x in zip(counts, operands, strict=True)] == [x.size for x in copies]


@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("product", PRODUCTS)
def test_project_average_is_expand_project_average(product: str, special: str) -> None:
    constraint, operands, _, target = sample(product, special)
    fused = constraint.project_average(operands, target, (), (True, True))
    plain = AbstractConstraint.project_average(constraint, operands, target, (), (True, True))
    scale = size(operands, plain.means)
    chex.assert_trees_all_close(fused.means, plain.means, atol=1e-9 * scale)
    chex.assert_trees_all_close(fused.output, plain.output, atol=1e-9 * (size(target) + scale**2))
    chex.assert_trees_all_close(fused.moved, plain.moved, rtol=1e-7, atol=1e-9 * scale**2)
    skipped = constraint.project_average(operands, target, (), (False, True))
    assert skipped.means[0] is None
    chex.assert_trees_all_equal(skipped.means[1], fused.means[1])


@pytest.mark.parametrize("relaxation", [0.3])
@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("product", PRODUCTS)
def test_half_steps_are_the_plain_ones(product: str, special: str, relaxation: float) -> None:
    constraint, operands, copies, target = sample(product, special)
    arguments = (copies, operands, target, (), relaxation)
    fused, plain = constraint.reflect(*arguments), AbstractConstraint.reflect(constraint, *arguments)
    scale = size(copies, plain[0])
    for got, wanted, tolerance in zip(fused, plain, (scale, size(target) + scale**2, scale**2), strict=True):
        chex.assert_trees_all_close(got, wanted, rtol=1e-7, atol=1e-8 * tolerance)

    fused = constraint.reflection(copies, target, ())
    plain = AbstractConstraint.reflection(constraint, copies, target, ())
    chex.assert_trees_all_close(fused.output, plain.output, atol=1e-9 * (size(target) + scale**2))
    chex.assert_trees_all_close(fused.means(), plain.means(), atol=1e-8 * scale)
    chex.assert_trees_all_close(
        fused.leave(operands, relaxation), plain.leave(operands, relaxation), rtol=1e-7, atol=1e-8 * scale
    )


def test_low_precision_products_keep_the_bracket() -> None:
    # bfloat16 products may claim |2 p| > q; the result must stay finite.
    a = jnp.full((3, 257), 1.01, jnp.bfloat16)
    constraint = Bilinear(((3, 257), (4, 257)), (((1,), (1,)), ((), ())))
    for sign in (1, -1):
        b = sign * jnp.full((4, 257), 1.01, jnp.bfloat16)
        for target in (-1e4, 0.0, 1e4):
            result = constraint.project_average(
                (a, b), jnp.full((3, 4), target, jnp.bfloat16), (), (True, True)
            )
            assert all(bool(jnp.all(jnp.isfinite(x.astype(jnp.float32)))) for x in jax.tree.leaves(result))


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_mean_rows_has_one_value_on_all_platforms(dtype: str) -> None:
    x = jax.random.normal(jax.random.key(0), (3, 17, 4, 5), dtype)
    (fast,) = jax.jit(pp.mean_rows_p.bind)(x)
    (reference,) = pp.mean_rows_p.reference(x)
    assert fast.dtype == x.dtype
    np.testing.assert_allclose(
        np.asarray(fast, np.float64), np.asarray(reference, np.float64), atol=4 * jnp.finfo(dtype).eps
    )
