"""Kernels for GPUs, interpreted here and compiled where there is one, and elementwise ones for TPUs."""

import math
from collections.abc import Callable
from functools import partial

import chex
import jax
import jax.numpy as jnp
import pytest
from pjax_prim.lowering import gpu, use
from pjax_prim.lowering.kernels import elementwise, gpu_cross_entropy, gpu_dot, gpu_elementwise

from pjax_prim import primitives as pp
from pjax_prim.primitives.curves import curve
from pjax_prim.primitives.scalar import Mode

from .test_cpu import DOT_STEPS, copies, dot_step, reference

needs_gpu = pytest.mark.skipif(jax.default_backend() != "gpu", reason="no GPU")
SLOW = pytest.mark.slow
SIZES = pytest.mark.parametrize(
    "sizes",
    [((2,), 3, 20, 3), *(pytest.param(x, marks=SLOW) for x in (((), 5, 7, 9), ((), 3, 2, 1100)))],
    ids=str,
)
SCALARS = pytest.mark.parametrize(
    "function", ["tanh", *(pytest.param(x, marks=SLOW) for x in ("logistic", "exp", "sin", "sqrt"))]
)


@DOT_STEPS
@SIZES
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dot_steps_interpreted(name: str, sizes: tuple, dtype: str) -> None:
    definition, operands, static = dot_step(name, copies(*sizes, dtype))
    plain = reference(definition, operands, **static)
    found = jax.jit(partial(getattr(gpu_dot, name), interpret=True, **static))(*operands)
    assert [(x.shape, x.dtype) for x in found] == [(x.shape, x.dtype) for x in plain]
    tolerance = 2e-2 if dtype == "bfloat16" else 1e-4
    chex.assert_trees_all_close(found, plain, rtol=tolerance, atol=tolerance)


def labelled_logits(shape: tuple[int, ...], dtype: str) -> tuple[jax.Array, jax.Array]:
    logits = 5 * jax.random.normal(jax.random.key(0), shape)
    labels = jax.nn.one_hot(jax.random.randint(jax.random.key(1), shape[:-1], 0, shape[-1]), shape[-1])
    return logits.astype(dtype), labels.at[0].set(0).astype(dtype)  # no labels at all, too


def steps(lam: float, shape: tuple[int, ...]) -> jax.Array:
    """A step of its own for each row, some of them zero."""
    rows = jnp.arange(math.prod(shape[:-1]), dtype="float32").reshape(shape[:-1])
    return lam * (rows % 3) / 2


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=SLOW)])
@pytest.mark.parametrize(
    "shape", [(130, 10), *(pytest.param(x, marks=SLOW) for x in ((3, 1), (2, 70, 33)))], ids=str
)
@pytest.mark.parametrize("lam", [5.0, pytest.param(0.1, marks=SLOW)])
def test_the_cross_entropy_interpreted(lam: float, shape: tuple[int, ...], dtype: str) -> None:
    operands = *labelled_logits(shape, dtype), steps(lam, shape)
    (found,) = jax.jit(partial(gpu_cross_entropy.displace, interpret=True))(*operands)
    (plain,) = reference(pp.displace_cross_entropy_p, list(operands))
    chex.assert_trees_all_equal_shapes_and_dtypes(found, plain)
    chex.assert_trees_all_close(found, plain, rtol=2e-2 if dtype == "bfloat16" else 1e-5, atol=1e-6)


def scalar_queries(function: str, scale: float) -> tuple[jax.Array, jax.Array]:
    x, apart = jax.random.normal(jax.random.key(0), (2, 3, 701), "float32")
    return jnp.abs(x), curve(function).value(jnp.abs(x)) + scale * apart


def assert_same_distance(found, x: jax.Array, z: jax.Array, function: str) -> None:
    static = {"function": function, "parameters": ()}
    plain = reference(pp.displace_scalar_p, [x.astype("float64"), z.astype("float64")], **static)
    got, wanted = (jnp.square(step) + jnp.square(output - z) for step, output in (found, plain))
    chex.assert_trees_all_close(got, wanted.astype(got.dtype), rtol=1e-3, atol=1e-8)


@SCALARS
@pytest.mark.parametrize("kernel", [gpu_elementwise.elementwise, elementwise.elementwise], ids=["gpu", "tpu"])
@pytest.mark.parametrize("scale", [1e-4, 3.0], ids="{:g}".format)
def test_scalar_functions_interpreted(function: str, kernel: Callable, scale: float) -> None:
    straight = partial(
        pp.displace_scalar_p.reference,
        function=function,
        parameters=(),
        mode=Mode(stops=True, apart=True),
    )
    x, z = scalar_queries(function, scale)
    found = jax.jit(partial(kernel, straight, interpret=True))(x, z)
    assert_same_distance(found, x, z, function)


@pytest.mark.parametrize("shape", [(), (5,), (256,), (2, 33, 5), (40, 700)], ids=str)
@pytest.mark.parametrize("kernel", [gpu_elementwise.elementwise, elementwise.elementwise], ids=["gpu", "tpu"])
def test_elementwise_kernels_of_any_shape(kernel: Callable, shape: tuple[int, ...]) -> None:
    def function(x: jax.Array, y: jax.Array, scale: float) -> tuple[jax.Array, jax.Array]:
        return (scale * x + y).astype("bfloat16"), x * y

    x, y = jax.random.normal(jax.random.key(0), (2, *shape), "float32")
    found = kernel(function, x, y, scale=2.0, interpret=True)
    assert [a.dtype for a in found] == ["bfloat16", "float32"]
    chex.assert_trees_all_close(found, function(x, y, 2.0), rtol=1e-6, atol=1e-6)


def test_without_a_gpu_a_program_for_one_has_no_kernel() -> None:
    if jax.default_backend() == "gpu":
        pytest.skip("there is a GPU")
    x, z = scalar_queries("tanh", 1.0)
    exported = jax.export.export(jax.jit(lambda x, z: pp.project_scalar(x, z, "tanh")), platforms=["cuda"])(
        x, z
    )
    text = exported.mlir_module()
    assert "triton" not in text and 'rule = "straight"' in text


def test_what_no_kernel_can_compute_is_left_to_xla(monkeypatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    narrow, wide = (jax.ShapeDtypeStruct((4, 3), dtype) for dtype in ("float32", "float64"))
    assert gpu._legal(narrow) and not gpu._legal(narrow, wide)
    assert not gpu._legal(jax.ShapeDtypeStruct((0, 3), "float32"))
    assert not gpu._legal(jax.ShapeDtypeStruct((2**16, 2**15), "float32"))
    assert not gpu_dot.fits(jax.ShapeDtypeStruct((2, 2, 2**13 + 1), "float32"))
    monkeypatch.setattr(gpu, "has_triton", lambda: False)
    assert not gpu._legal(narrow)


@SLOW
@pytest.mark.skipif(jax.__version_info__ >= (0, 11), reason="jax 0.11 lowers kernels only beside a GPU")
def test_kernels_are_programs_of_triton() -> None:
    for name in ("displace_dot", "leave_dot", "reflect_dot"):
        definition, operands, static = dot_step(name, copies((), 5, 7, 9, "float32"))
        function = partial(getattr(gpu_dot, name), **static)
        assert "triton" in jax.jit(function).trace(*operands).lower(lowering_platforms=("cuda",)).as_text()
    for function in ("tanh", "cbrt", "reciprocal"):
        reference = partial(
            pp.project_scalar_p.reference, function=function, parameters=(), mode=Mode(stops=True, apart=True)
        )
        kernel = jax.jit(partial(gpu_elementwise.elementwise, reference))
        assert "triton" in kernel.trace(*scalar_queries(1.0)).lower(lowering_platforms=("cuda",)).as_text()


def both(function, operands):
    for choice in ("xla", "auto"):
        with use(choice):
            lowered = jax.jit(lambda *x: tuple(function(*x))).lower(*operands)
            yield lowered.compile()(*operands), "triton_kernel" in lowered.as_text()


@needs_gpu
@DOT_STEPS
@SIZES
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dot_steps_on_a_gpu(name: str, sizes: tuple, dtype: str) -> None:
    definition, operands, static = dot_step(name, copies(*sizes, dtype))
    (plain, _), (found, is_kernel) = both(lambda *x: definition.bind(*x, **static), operands)
    tolerance = 2e-2 if dtype == "bfloat16" else 1e-4
    assert is_kernel
    chex.assert_trees_all_close(found, plain, rtol=tolerance, atol=tolerance)


@needs_gpu
@SCALARS
@pytest.mark.parametrize("scale", [1e-4, 3.0], ids="{:g}".format)
def test_scalar_functions_on_a_gpu(function: str, scale: float) -> None:
    x, z = scalar_queries(function, scale)
    static = {"function": function, "parameters": ()}
    _, (found, is_kernel) = both(lambda *x: pp.displace_scalar_p.bind(*x, **static), (x, z))
    assert is_kernel
    assert_same_distance(found, x, z, function)


@needs_gpu
@pytest.mark.parametrize("shape", [(3, 1), (130, 10), (2, 70, 33)], ids=str)
def test_the_cross_entropy_on_a_gpu(shape: tuple[int, ...]) -> None:
    operands = *labelled_logits(shape, "float32"), steps(5.0, shape)
    (plain, _), (found, is_kernel) = both(pp.prox_cross_entropy_p.bind, operands)
    assert is_kernel
    chex.assert_trees_all_close(found, plain, rtol=1e-5, atol=1e-6)
