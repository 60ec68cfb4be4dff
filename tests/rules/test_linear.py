"""The fused forms of the linear constraint against its plain, copy-by-copy definition."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pjax_prim import primitives as pp
from pjax_prim.primitives import linear
from pjax_prim.primitives.dot import is_near, scaled_residual
from pjax_prim.rules import AbstractConstraint
from pjax_prim.rules.linear import Linear

PRODUCTS = {
    "matrix": ((4, 5), (5, 3), "ab,bc->ac"),
    "transposed": ((5, 4), (3, 5), "ba,cb->ac"),
    "vector": ((5,), (5, 3), "b,bc->c"),
    "batched": ((2, 4, 5), (2, 3, 5), "gpk,gqk->gpq"),
    "two contracted": ((4, 2, 3), (3, 2, 6), "akl,lkb->ab"),
}
SPECIAL = ("random", "zeros", "parallel", "antiparallel", "far", "tiny", "huge")


def make(product: str) -> Linear:
    left, right, subscripts = PRODUCTS[product]
    jaxpr = jax.make_jaxpr(lambda a, b: jax.lax.dot_general(a, b, dimensions(subscripts)))(
        jnp.zeros(left), jnp.zeros(right)
    )
    (equation,) = jaxpr.eqns
    return Linear((left, right), equation.params["dimension_numbers"])


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
    scale = size(operands, plain.displacements)
    chex.assert_trees_all_close(fused.displacements, plain.displacements, atol=1e-9 * scale)
    chex.assert_trees_all_close(fused.output, plain.output, atol=1e-9 * (size(target) + scale**2))
    chex.assert_trees_all_close(fused.moved, plain.moved, rtol=1e-7, atol=1e-9 * scale**2)
    skipped = constraint.project_average(operands, target, (), (False, True))
    assert skipped.displacements[0] is None
    chex.assert_trees_all_close(skipped.displacements[1], fused.displacements[1], rtol=1e-12)


@pytest.mark.parametrize("relaxation", [0.3])
@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("product", PRODUCTS)
def test_half_steps_are_the_plain_ones(product: str, special: str, relaxation: float) -> None:
    constraint, operands, copies, target = sample(product, special)
    arguments = (copies, operands, target, (), relaxation)
    fused, plain = constraint.reflect(*arguments), AbstractConstraint.reflect(constraint, *arguments)
    scale = size(copies, plain[0])
    tolerances = scale, size(target) + scale**2, scale**2, scale
    for got, wanted, tolerance in zip(fused, plain, tolerances, strict=True):
        chex.assert_trees_all_close(got, wanted, rtol=1e-7, atol=1e-8 * tolerance)

    fused = constraint.reflection(copies, target, (), constraint.held(copies, target))
    plain = AbstractConstraint.reflection(constraint, copies, target, ())
    chex.assert_trees_all_close(fused.output, plain.output, atol=1e-9 * (size(target) + scale**2))
    chex.assert_trees_all_close(fused.means(), plain.means(), atol=1e-8 * scale)
    *left, held = fused.leave(operands, relaxation, lambda: 2 * target)
    *plainly, nothing = plain.leave(operands, relaxation, lambda: 2 * target)
    assert nothing is None
    chex.assert_trees_all_close(left, plainly, rtol=1e-7, atol=1e-8 * scale)
    again = constraint.reflection(left[0], 2 * target, (), held)
    plainly_again = AbstractConstraint.reflection(constraint, left[0], 2 * target, ())
    chex.assert_trees_all_close(again.output, plainly_again.output, atol=1e-9 * (size(target) + scale**2))
    chex.assert_trees_all_close(again.means(), plainly_again.means(), atol=1e-8 * scale)


def test_low_precision_products_keep_the_bracket() -> None:
    # bfloat16 products may claim |2 p| > q; the result must stay finite.
    a = jnp.full((3, 257), 1.01, jnp.bfloat16)
    constraint = Linear(((3, 257), (4, 257)), (((1,), (1,)), ((), ())))
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


def product_operands(seed: int = 0, shapes=((32, 24), (16, 24))):
    keys = jax.random.split(jax.random.key(seed), 3)
    a, b = (jax.random.normal(key, shape, jnp.float32) for key, shape in zip(keys, shapes, strict=False))
    return a, b, jax.random.normal(keys[2], (shapes[0][0], shapes[1][0]), jnp.float32)


SETTINGS = {"wanted": (True, True), "precision": None}


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_blocks_near_and_far_give_the_same(groups: int, blocks: int) -> None:
    """Some blocks all near, some with far targets, one with degenerate ones."""
    keys = jax.random.split(jax.random.key(0), 3)
    a, b = (jax.random.normal(key, (groups, n, 5), jnp.float64) for key, n in ((keys[0], 12), (keys[1], 7)))
    b = b.at[:, 3].set(0)
    a = a.at[:, 5].set(0)
    size = jnp.where(jnp.arange(12) < 4, 1e-3, 10.0)[:, None]
    residual = size * jax.random.normal(keys[2], (groups, 12, 7), jnp.float64)
    product = a @ jnp.swapaxes(b, 1, 2)
    norm_a, norm_b = jnp.sum(a**2, -1)[..., None], jnp.sum(b**2, -1)[:, None]
    query = linear.Query(product, norm_a, norm_b, a[..., :1], b[:, None, :, 0], product + residual)
    s, d, r = query.equation()
    near = [is_near(scaled_residual(s, d, r)[:, rows]) for rows in (slice(4), slice(4, 12))]
    assert list(map(bool, near)) == [True, False]
    found = jax.jit(lambda: linear.answer_blockwise(query, product.size // blocks))()
    assert float(jnp.max(jnp.abs(found.step_a))) > 0.1
    chex.assert_trees_all_close(found, linear.answer(query), rtol=1e-11, atol=1e-13)


def test_the_branch_is_for_one_device() -> None:
    """Spread over devices it would cost a collective."""
    a, b, z = product_operands()

    def project(*operands: jax.Array):
        return pp.project_linear_p.bind(*operands, operand_dtype=jnp.float32, **SETTINGS)

    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, whole = (jax.NamedSharding(mesh, jax.P(*names)) for names in (("data",), ()))
    spread = [jax.device_put(x, s) for x, s in zip((a, b, z), (rows, whole, rows), strict=True)]
    manual = jax.shard_map(
        lambda *x: project(*x)[0], mesh=mesh, in_specs=(jax.P("data"), jax.P(), jax.P("data")),
        out_specs=jax.P("data"),
    )  # fmt: skip
    programs = ((project, (a, b, z)), (project, spread), (manual, spread))
    texts = [jax.jit(f).lower(*x).as_text() for f, x in programs]
    assert ["stablehlo.case" in text for text in texts] == [True, False, True]
    chex.assert_trees_all_close(jax.jit(project)(*spread), jax.jit(project)(a, b, z), rtol=2e-5, atol=1e-5)
    chex.assert_trees_all_close(jax.jit(manual)(*spread), project(a, b, z)[0], rtol=2e-5, atol=1e-5)


def test_what_is_not_wanted_is_not_computed() -> None:
    a, b, z = product_operands()

    def products(wanted: tuple[bool, bool]) -> int:
        def project(*operands: jax.Array):
            return linear.reference(*operands, wanted=wanted, precision=None, operand_dtype=a.dtype)

        return str(jax.make_jaxpr(project)(a, b, z)).count("dot_general")

    assert [products(x) for x in ((True, True), (False, True), (False, False))] == [3, 2, 1]


@pytest.mark.parametrize("rows", [0, 1])
def test_products_without_rows(rows: int) -> None:
    constraint = Linear(((rows, 3), (4, 3)), (((1,), (1,)), ((), ())))
    a, b = jnp.ones((rows, 3)), jnp.ones((4, 3))
    result = constraint.project_average((a, b), jnp.zeros((rows, 4)), (), (True, True))
    assert [x.shape for x in result.displacements] == [a.shape, b.shape]
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(result))
    assert bool(jnp.all((result.displacements[1] == 0) == (rows == 0)))
