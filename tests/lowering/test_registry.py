"""The table of lowerings, its switch, and kernels beside the references they stand for."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec
from pjax_prim.lowering import RULES, register, table, use

import pjax_prim as pjp
from pjax_prim import primitives as pp


def normal(*shape: int, dtype: str = "float32") -> jax.Array:
    return jax.random.normal(jax.random.key(sum(shape)), shape, jnp.float32).astype(dtype)


def matrices(batch: tuple[int, ...], p: int, q: int, k: int, dtype: str) -> tuple[jax.Array, ...]:
    return (
        normal(*batch, p, k, dtype=dtype),
        jnp.cos(normal(*batch, q, k, dtype=dtype)),
        3 * normal(*batch, p, q, dtype=dtype),
    )


def project_linear(a: jax.Array, b: jax.Array, z: jax.Array) -> tuple[jax.Array, ...]:
    return pp.project_linear_p.bind(
        a,
        b,
        z,
        wanted=(True, True),
        precision=jax.lax.Precision.HIGHEST,
        operand_dtype=jnp.result_type(a, jnp.float32),
    )


def copies(batch: tuple[int, ...], p: int, q: int, k: int, dtype: str) -> tuple[jax.Array, ...]:
    return (
        normal(*batch, p, q, k, dtype=dtype),
        jnp.cos(normal(*batch, p, q, k, dtype=dtype)),
        normal(*batch, p, 1, k, dtype=dtype),
        normal(*batch, 1, q, k, dtype=dtype),
        3 * normal(*batch, p, q, dtype=dtype),
    )


def relaxation(z: jax.Array) -> jax.Array:
    return jnp.full((1,) * z.ndim, 0.35, z.dtype)


def reflect_dot(*operands: jax.Array) -> tuple[jax.Array, ...]:
    return pp.reflect_dot_p.bind(*operands, relaxation(operands[-1]))


def displace_dot(a, b, mean_a, mean_b, z) -> tuple[jax.Array, ...]:
    return pp.displace_dot_p.bind(a, b, z)


def leave_dot(*operands: jax.Array) -> tuple[jax.Array, ...]:
    a, b, *means, z = operands
    solved = pp.displace_dot_p.reference(a, b, z)[:4]
    return pp.leave_dot_p.bind(a, b, *means, *solved, z, relaxation(z))


def both_ways(function, operands):
    results = []
    for choice in ("xla", "pallas"):
        with use(choice):
            lowered = jax.jit(lambda *x: function(*x)).lower(*operands)
            results.append(lowered.compile()(*operands))
    return *results, lowered.as_text()


EVERY_KERNEL = pytest.mark.parametrize(
    "function, operands",
    [(project_linear, matrices), *((step, copies) for step in (displace_dot, leave_dot, reflect_dot))],
    ids=["project_linear", "displace_dot", "leave_dot", "reflect_dot"],
)
SMALL, LARGE = ((), 5, 3, 4), ((2,), 9, 130, 3)


@EVERY_KERNEL
@pytest.mark.parametrize(
    ("sizes", "dtype"),
    [
        (SMALL, "bfloat16"),
        (LARGE, "float32"),
        *(pytest.param(*row, marks=pytest.mark.slow) for row in ((SMALL, "float32"), (LARGE, "bfloat16"))),
    ],
    ids=str,
)
def test_a_kernel_computes_its_reference(function, operands, sizes, dtype: str) -> None:
    batch, *shape = sizes
    plain, kernel, text = both_ways(function, operands(batch, *shape, dtype))
    assert "_kernel" in text
    assert [(x.dtype, x.shape) for x in kernel] == [(x.dtype, x.shape) for x in plain]
    tolerance = 2e-2 if dtype == "bfloat16" else 1e-5
    chex.assert_trees_all_close(kernel, plain, rtol=tolerance, atol=tolerance)


@EVERY_KERNEL
def test_float64_has_no_kernel(function, operands) -> None:
    with use("pallas"):
        lowered = jax.jit(lambda *x: function(*x)).lower(*operands((), 5, 3, 4, "float64"))
    assert "_kernel" not in lowered.as_text()


def test_near_targets_take_the_short_solve_of_the_kernel() -> None:
    a, b, _ = matrices((), 9, 6, 4, "float32")
    plain, kernel, _ = both_ways(project_linear, (a, b, a @ b.T + 1e-3 * normal(9, 6)))
    chex.assert_trees_all_close(kernel, plain, rtol=1e-5, atol=1e-6)


def test_a_kernel_is_only_used_where_one_device_holds_the_operands() -> None:
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    operands = matrices((2,), 4, 3, 5, "float32")
    spread = jax.device_put(operands, jax.NamedSharding(mesh, PartitionSpec("data")))
    expected = project_linear(*operands)
    with use("pallas"):
        automatic = jax.jit(lambda *x: project_linear(*x)).lower(*spread)
        spec = PartitionSpec("data")
        manual = jax.jit(
            # Interpreted kernels mix varying and fixed arrays; compiled ones say what varies.
            jax.shard_map(
                lambda *x: project_linear(*x), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
            )
        ).lower(*spread)
    assert "solve_kernel" not in automatic.as_text() and "solve_kernel" in manual.as_text()
    for lowered in (automatic, manual):
        chex.assert_trees_all_close(lowered.compile()(*spread), expected, rtol=1e-5, atol=1e-6)


def test_kernels_lower_for_tpu_and_only_there_by_themselves() -> None:
    operands = matrices((), 16, 128, 8, "float32")
    for platform, count in (("tpu", 1), ("cuda", 0), ("cpu", 0)):
        exported = jax.export.export(
            jax.jit(project_linear), platforms=[platform],
            disabled_checks=[jax.export.DisabledSafetyCheck.custom_call("tpu_custom_call")],
        )(*operands)  # fmt: skip
        assert exported.mlir_module().count("@tpu_custom_call(") == count


def test_the_choice_is_part_of_the_equation_and_of_the_text() -> None:
    operands = matrices((), 4, 3, 5, "float32")
    for choice in ("auto", "xla", "pallas"):
        with use(choice):
            jaxpr = jax.make_jaxpr(lambda *x: project_linear(*x))(*operands)
            text = jax.jit(lambda *x: project_linear(*x)).lower(*operands).as_text()
        assert jaxpr.eqns[0].params["lowering"] == choice
        assert f'lowering = "{choice}"' in text


def test_another_choice_is_an_error() -> None:
    with pytest.raises(
        pjp.ArgumentError, match="choice: expected 'auto' or 'xla' or 'pallas', given 'triton'"
    ):
        use("triton").__enter__()  # type: ignore[arg-type]


def test_every_primitive_has_a_composite_of_a_stable_name_and_version() -> None:
    """A name may be added; what is here may not change without a new version."""
    versions = {d.composite: d.version for d in pp.DEFINITIONS.values() if "test" not in d.name}
    assert versions == {
        **dict.fromkeys(NAMES, 1),
        **dict.fromkeys(STEPS_ARE_OPERANDS, 2),
        "pjax.displace_dot": 2,
        "pjax.leave_dot": 3,
        "pjax.project_linear": 2,
        "pjax.reflect_dot": 2,
    }
    text = jax.jit(pp.project_dot).lower(normal(3), normal(3), normal()).as_text()
    assert 'stablehlo.composite "pjax.project_dot"' in text and "version = 1 : i32" in text


def test_a_symbolic_batch_is_exported_for_all_platforms() -> None:
    (count,) = jax.export.symbolic_shape("count")
    shapes = [jax.ShapeDtypeStruct((count, *s), jnp.float32) for s in ((3,), (3,), ())]
    exported = jax.export.export(jax.jit(jax.vmap(pp.project_dot)), platforms=["cpu", "cuda", "tpu"])(*shapes)
    operands = normal(5, 3), normal(5, 3) + 1, normal(5)
    expected = jax.vmap(pp.project_dot)(*operands)
    chex.assert_trees_all_close(exported.call(*operands), expected, rtol=1e-6)


def test_the_table_has_every_rule() -> None:
    assert len(table()) == sum(len(rules) for of in RULES.values() for rules in of.values())
    assert {name for name, *_ in table()} >= set(pp.DEFINITIONS)


STEPS_ARE_OPERANDS = [
    "pjax.cross_entropy", "pjax.displace_cross_entropy", "pjax.prox_cross_entropy", "pjax.squared_error",
    "pjax.prox_squared_error", "pjax.margin_loss", "pjax.equality",
]  # fmt: skip
NAMES = """
pjax.absolute_error
pjax.at_most
pjax.binary_cross_entropy
pjax.convolve
pjax.correlate
pjax.cross_entropy
pjax.displace_cross_entropy
pjax.displace_cumsum
pjax.displace_dot
pjax.displace_max
pjax.displace_scalar
pjax.displace_sum
pjax.displace_sum_relu
pjax.equality
pjax.huber
pjax.kl_divergence
pjax.leave_dot
pjax.logsumexp
pjax.margin_loss
pjax.mean_rows
pjax.minimise
pjax.normalize
pjax.one_hot_argmax
pjax.project_one_hot_argmax
pjax.project_top_k_mask
pjax.top_k_mask
pjax.project_affine
pjax.project_at_most
pjax.project_combination
pjax.project_convolution
pjax.project_cumsum
pjax.project_dot
pjax.project_equality
pjax.project_identity
pjax.project_logsumexp
pjax.project_margin
pjax.project_max
pjax.project_mean
pjax.project_normalize
pjax.project_product
pjax.project_quantize
pjax.project_round
pjax.project_scalar
pjax.project_scale
pjax.project_select
pjax.project_sign
pjax.project_softmax
pjax.project_sum
pjax.project_sum_relu
pjax.project_threshold_dot
pjax.prox_absolute_error
pjax.prox_binary_cross_entropy
pjax.prox_cross_entropy
pjax.prox_huber
pjax.prox_minimise
pjax.prox_squared_error
pjax.quantize
pjax.reflect_dot
pjax.scalar
pjax.select
pjax.softmax
pjax.spread
pjax.squared_error
pjax.squared_norm
pjax.sum_relu
pjax.threshold_dot
""".split()


def test_a_reference_is_traced_once() -> None:
    """For abstract evaluation and lowering together, wherever the equation is."""
    traced = []

    def reference(x: Any) -> tuple[Any, ...]:
        traced.append(x.shape)
        return (jnp.sin(x),)

    definition = pp.define("pjax_test_once", reference)
    try:
        register(definition)

        def apply(x: Any) -> Any:
            return definition.bind(x)[0]

        jax.jit(apply)(jnp.ones((4, 3)))
        jax.jit(lambda x: 2 * apply(x))(jnp.ones((4, 3)))  # another program
        apply(jnp.ones(5))
        mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        inside = jax.shard_map(jax.vmap(apply), mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P("data"))
        jax.jit(inside)(jnp.ones((8, 2)))
        assert traced == [(4, 3), (5,), (2, 2)]
    finally:
        del pp.DEFINITIONS["pjax_test_once"], RULES["pjax_test_once"]
