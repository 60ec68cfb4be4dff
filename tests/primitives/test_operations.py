"""Operations that users call inside ordinary models, and parts of solver steps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pjax_prim as pjp
import pjax_prim.primitives as pp
from pjax_prim.primitives._window import Window


@dataclass(frozen=True)
class Operation:
    """`apply` in the library, `plain` in `jax.numpy`; `operands(count)` have a leading axis."""

    name: str
    definition: pp.Definition
    apply: Callable[..., jax.Array]
    plain: Callable[..., jax.Array]
    operands: Callable[[int], list[jax.Array]]

    def __str__(self) -> str:
        return self.name


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(len(shape)).standard_normal(shape))


def logits_and_labels(count: int) -> list[jax.Array]:
    labels = np.random.default_rng(1).integers(0, 5, count)
    return [2 * normal(count, 5), jnp.eye(5)[labels]]


def plain_margin_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    short = jnp.where(labels > 0, jnp.maximum(labels - logits, 0), jnp.maximum(logits, 0))
    return 0.5 * jnp.sum(short**2, -1)


def plain_quantize(x: jax.Array, levels: int, scale: float) -> jax.Array:
    values = jnp.linspace(-scale, scale, levels)
    return values[jnp.argmin(jnp.abs(x[..., None] - values), -1)]


def half_square(x: jax.Array, target: jax.Array) -> jax.Array:
    return 0.5 * jnp.sum((x - target) ** 2, -1)


def copies_and_means(count: int) -> list[jax.Array]:
    a, b, z = normal(count, 2, 3, 4), normal(count, 2, 3, 4)[:, ::-1], normal(count, 2, 3)
    return [a, b, jnp.mean(a, 2, keepdims=True), jnp.mean(b, 1, keepdims=True), z]


def rows_of(results: tuple[jax.Array, ...], z: jax.Array) -> jax.Array:
    """Several results as one, with the axes before the last two of `z` kept."""
    return jnp.concatenate([x.reshape(*z.shape[:-2], -1) for x in results], -1)


def project_rows(a: jax.Array, b: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The dot projection of all vectors along the last axis."""
    a, b = jnp.broadcast_arrays(a, b)
    flat = a.reshape(-1, a.shape[-1]), b.reshape(-1, a.shape[-1])
    p_a, p_b = jax.vmap(pp.project_dot)(*flat, jnp.broadcast_to(z, a.shape[:-1]).reshape(-1))
    return p_a.reshape(a.shape), p_b.reshape(a.shape)


def displace_dot(a: jax.Array, b: jax.Array, z: jax.Array) -> jax.Array:
    *solved, output, mean_a, mean_b = pp.displace_dot_p.bind(a, b, z)
    return rows_of((*displaced(a, b, *solved), output, mean_a, mean_b), output)


def displaced(
    a: jax.Array, b: jax.Array, c: jax.Array, e: jax.Array, step_a: jax.Array, step_b: jax.Array
) -> tuple[jax.Array, jax.Array]:
    c, e = c[..., None], e[..., None]
    p_a = (a + c * a + e * b).at[..., 0].add(step_a)
    return p_a, (b + c * b + e * a).at[..., 0].add(step_b)


def plain_displace_dot(a: jax.Array, b: jax.Array, z: jax.Array) -> jax.Array:
    p_a, p_b = project_rows(a, b, z)
    output = jnp.sum(p_a * p_b, -1)
    means = jnp.mean(2 * p_a - a, -2), jnp.mean(2 * p_b - b, -3)
    return rows_of((p_a, p_b, output, *means), output)


def relaxation(z: jax.Array) -> jax.Array:
    return jnp.full((1,) * z.ndim, 0.7, z.dtype)


def leave_dot(*operands: jax.Array) -> jax.Array:
    a, b, squared, c, e, step_a, step_b, output, *means = pp.leave_dot_p.bind(
        *operands, relaxation(operands[-1])
    )
    projected = displaced(a, b, c, e, step_a, step_b)
    return rows_of((a, b, squared, *projected, output, *means), output)


def plain_leave_dot(
    a: jax.Array,
    b: jax.Array,
    mean_a: jax.Array,
    mean_b: jax.Array,
    c: jax.Array,
    e: jax.Array,
    step_a: jax.Array,
    step_b: jax.Array,
    z: jax.Array,
) -> jax.Array:
    move_a = mean_a - (a + c[..., None] * a + e[..., None] * b)
    move_b = mean_b - (b + c[..., None] * b + e[..., None] * a)
    move_a, move_b = move_a.at[..., 0].add(-step_a), move_b.at[..., 0].add(-step_b)
    squared = jnp.sum(move_a**2 + move_b**2, -1)
    a, b = a + 1.4 * move_a, b + 1.4 * move_b
    return jnp.concatenate([rows_of((a, b, squared), squared), plain_displace_dot(a, b, z)], -1)


def reflect_dot(*operands: jax.Array) -> jax.Array:
    results = pp.reflect_dot_p.bind(*operands, relaxation(operands[-1]))
    return rows_of(results, results[3])


def plain_reflect_dot(
    a: jax.Array, b: jax.Array, mean_a: jax.Array, mean_b: jax.Array, z: jax.Array
) -> jax.Array:
    p_a, p_b = project_rows(2 * mean_a - a, 2 * mean_b - b, z)
    moves = p_a - mean_a, p_b - mean_b
    squared = sum(jnp.sum(move**2, -1) for move in moves)
    new = tuple(x + 1.4 * move for x, move in zip((a, b), moves, strict=True))
    means = jnp.mean(new[0], -2), jnp.mean(new[1], -3)
    return rows_of((*new, jnp.sum(p_a * p_b, -1), squared, *means), squared)


def plain_displace_cumsum(r: jax.Array) -> jax.Array:
    n = r.shape[-1]
    matrix = jnp.tril(jnp.ones((n, n)))
    step = jnp.linalg.solve(jnp.eye(n) + matrix.T @ matrix, matrix.T @ r[..., None])[..., 0]
    return jnp.stack([step, jnp.cumsum(step, -1)], -1)


def displace_scalar(x: jax.Array, z: jax.Array) -> jax.Array:
    static = {"function": "silu", "parameters": ()}
    absolute = pp.displace_scalar_p.bind(x, z, relative=False, **static)
    relative = pp.displace_scalar_p.bind(x, z - jax.nn.silu(x), relative=True, **static)
    return jnp.stack([*absolute, *relative], -1)


def plain_displace_scalar(x: jax.Array, z: jax.Array) -> jax.Array:
    moved = pp.project_scalar(x, z + 0 * x, "silu")
    before, after = jax.nn.silu(x), jax.nn.silu(moved)
    return jnp.stack([moved - x, after, moved - x, after - before], -1)


def matrices(count: int) -> list[jax.Array]:
    return [normal(count, 3, 4), jnp.cos(normal(count, 2, 4)), 3 * normal(count, 3, 2)]


def project_linear(a: jax.Array, b: jax.Array, z: jax.Array) -> jax.Array:
    settings = {"wanted": (True, True), "precision": None, "operand_dtype": a.dtype}
    results = pp.project_linear_p.bind(a, b, z, relative=False, **settings)
    again = pp.project_linear_p.bind(a, b, z - a @ jnp.swapaxes(b, -1, -2), relative=True, **settings)
    return rows_of((*results, *again), results[0])


def plain_project_linear(a: jax.Array, b: jax.Array, z: jax.Array) -> jax.Array:
    p_a, p_b = project_rows(a[..., :, None, :], b[..., None, :, :], z)
    move_a, move_b = p_a - a[..., :, None, :], p_b - b[..., None, :, :]
    moved = jnp.sum(move_a**2 + move_b**2, (-3, -2, -1))
    means, output = (jnp.mean(move_a, -2), jnp.mean(move_b, -3)), jnp.sum(p_a * p_b, -1)
    displaced = output - a @ jnp.swapaxes(b, -1, -2)
    return rows_of((output, *means, moved, displaced, *means, moved), output)


def displace_max(a: jax.Array, z: jax.Array) -> jax.Array:
    step, output, moved = pp.displace_max_p.bind(a, z)
    return jnp.concatenate([step, output[..., None], moved[..., None]], -1)


def plain_displace_max(a: jax.Array, z: jax.Array) -> jax.Array:
    a = jnp.broadcast_to(a, (*jnp.broadcast_shapes(a.shape[:-1], z.shape), a.shape[-1]))
    z = jnp.broadcast_to(z, a.shape[:-1])
    projected = jax.vmap(pp.project_max)(a.reshape(-1, a.shape[-1]), z.reshape(-1)).reshape(a.shape)
    step = projected - a
    return jnp.concatenate([step, projected.max(-1, keepdims=True), (step**2).sum(-1, keepdims=True)], -1)


def plain_displace_cross_entropy(x: jax.Array, y: jax.Array) -> jax.Array:
    x, y = jnp.broadcast_arrays(x, y)
    rows = x.reshape(-1, 5), y.reshape(-1, 5)
    return jax.vmap(lambda *row: pp.prox_cross_entropy(*row, lam=0.3))(*rows).reshape(x.shape) - x


WINDOW = Window((2, 3), (1, 2), ((1, 0), (0, 2)), (1, 2), (2, 1), 2)


def project_convolution(*operands: jax.Array) -> jax.Array:
    results = pp.project_convolution_p.bind(
        *operands, window=WINDOW, wanted=(True, True), relative=True, precision=None,
        operand_dtype=jnp.dtype("float64"),
    )  # fmt: skip
    outer = operands[0].shape[:-4]
    return jnp.concatenate([x.reshape(*outer, -1) for x in results], -1)


def convolve(*operands: jax.Array) -> jax.Array:
    return pp.convolve_p.bind(*operands, window=WINDOW, precision=None, output_dtype=None)[0]


def plain_convolve(*operands: jax.Array) -> jax.Array:
    outer = jnp.broadcast_shapes(*(x.shape[:-4] for x in operands))
    rows = [jnp.broadcast_to(x, outer + x.shape[-4:]).reshape(-1, *x.shape[-4:]) for x in operands]
    results = jnp.stack([WINDOW.convolve(x, w, None) for x, w in zip(*rows, strict=True)])
    return results.reshape(*outer, *results.shape[1:])


def plain_project_convolution(*operands: jax.Array) -> jax.Array:
    """Copy by copy."""
    outer = jnp.broadcast_shapes(*(x.shape[:-4] for x in operands))
    rows = [jnp.broadcast_to(x, outer + x.shape[-4:]).reshape(-1, *x.shape[-4:]) for x in operands]
    results = [_plain_convolution(*one) for one in zip(*rows, strict=True)]
    return jnp.stack(results).reshape(*outer, -1)


def _plain_convolution(x: jax.Array, w: jax.Array, z: jax.Array) -> jax.Array:
    def patches_of(x: jax.Array) -> jax.Array:  # (N, G, 1, *P, C, size)
        return jnp.moveaxis(WINDOW.patches(WINDOW.grouped(x)), 2, -2)[:, :, None]

    a = patches_of(x)
    b = w.reshape(1, 2, 2, 1, 1, 2, 6)
    a, b = jnp.broadcast_arrays(a, b)
    a, b = (v.reshape(*v.shape[:-2], 12) for v in (a, b))
    product = jnp.sum(a * b, -1)
    p_a, p_b = project_rows(a, b, product + z.reshape(product.shape))
    move_a, move_b = p_a - a, p_b - b
    _, back = jax.vjp(patches_of, x)
    shape = (*move_a.shape[:2], 1, *move_a.shape[3:-1], 2, 6)
    (total,) = back(jnp.sum(move_a, 2, keepdims=True).reshape(shape))
    (counts,) = back(jnp.ones(shape))
    results = (
        jnp.sum(p_a * p_b, -1) - product,
        total / jnp.maximum(2 * counts, 1),
        jnp.mean(move_b, (0, 3, 4)),
        jnp.sum(move_a**2 + move_b**2),
    )
    return jnp.concatenate([x.ravel() for x in results])


OPERATIONS = [
    Operation(
        "sum_relu", pp.sum_relu_p, pp.sum_relu, lambda *xs: jax.nn.relu(sum(xs)),
        lambda count: [normal(count, 3), normal(count, 3) - 0.5, normal(count, 1, 3)[:, 0]],
    ),
    Operation(
        "quantize", pp.quantize_p, lambda x: pp.quantize(x, 5, 2.0),
        lambda x: plain_quantize(x, 5, 2.0), lambda count: [3 * normal(count, 4)],
    ),
    Operation(
        "one_hot_argmax", pp.one_hot_argmax_p, pp.one_hot_argmax,
        lambda x: jax.nn.one_hot(jnp.argmax(x, -1), x.shape[-1]), lambda count: [normal(count, 4)],
    ),
    Operation(
        "top_k_mask", pp.top_k_mask_p, lambda x: pp.top_k_mask(x, 2),
        lambda x: jax.nn.one_hot(jax.lax.top_k(x, 2)[1], x.shape[-1]).sum(-2),
        lambda count: [normal(count, 4)],
    ),
    Operation(
        "threshold_dot", pp.threshold_dot_p, lambda w, x: pp.threshold_dot_p.bind(w, x, sigma=3.0)[0],
        lambda w, x: jnp.where(jnp.sum(w * x[..., None, :], -1) >= 0, 1.0, -1.0) + 0 * w[..., 0],
        lambda count: [normal(count, 3, 4), normal(count, 4)],
    ),
    Operation("margin_loss", pp.margin_loss_p, pp.margin_loss, plain_margin_loss, logits_and_labels),
    Operation(
        "cross_entropy", pp.cross_entropy_p, pp.cross_entropy,
        lambda x, y: optax.losses.softmax_cross_entropy(x, y), logits_and_labels,
    ),
    Operation("squared_error", pp.squared_error_p, pp.squared_error, half_square, logits_and_labels),
    Operation("equality", pp.equality_p, pp.equality, half_square, logits_and_labels),
    Operation(
        "binary_cross_entropy", pp.binary_cross_entropy_p, pp.binary_cross_entropy,
        optax.sigmoid_binary_cross_entropy,
        lambda count: [3 * normal(count, 4), jnp.cos(normal(count, 4)) ** 2],
    ),
    Operation(
        "absolute_error", pp.absolute_error_p, pp.absolute_error, lambda x, t: jnp.abs(x - t),
        lambda count: [normal(count, 4), jnp.cos(normal(count, 4))],
    ),
    Operation(
        "huber", pp.huber_p, lambda x, t: pp.huber(x, t, 0.7), lambda x, t: optax.huber_loss(x, t, delta=0.7),
        lambda count: [2 * normal(count, 4), jnp.cos(normal(count, 4))],
    ),
    Operation(
        "kl_divergence", pp.kl_divergence_p, pp.kl_divergence,
        lambda x, p: optax.kl_divergence(jax.nn.log_softmax(x), p),
        lambda count: [2 * normal(count, 5), jax.nn.softmax(jnp.cos(normal(count, 5)))],
    ),
    Operation(
        "at_most", pp.at_most_p, pp.at_most, lambda y, b: 0.5 * jax.nn.relu(y - b) ** 2,
        lambda count: [normal(count, 4), jnp.cos(normal(count, 4))],
    ),
    Operation("minimise", pp.minimise_p, pp.minimise, lambda y: y, lambda count: [normal(count, 4)]),
    Operation(
        "mean_rows", pp.mean_rows_p, lambda x: pp.mean_rows_p.bind(x)[0],
        lambda x: jnp.mean(x, -3), lambda count: [normal(count, 3, 4, 2)],
    ),
    Operation(
        "displace_sum", pp.displace_sum_p, lambda s, z: pp.displace_sum_p.bind(s, z, inputs=3)[0],
        lambda s, z: (z - s) / 4, lambda count: [normal(count, 4), jnp.cos(normal(count, 4))],
    ),
    Operation(
        "displace_sum_relu", pp.displace_sum_relu_p,
        lambda s, z: pp.displace_sum_relu_p.bind(s, z, inputs=2)[0],
        lambda s, z: pp.project_sum_relu((0.3 * s, 0.7 * s), z + 0 * s)[0] - 0.3 * s,
        lambda count: [normal(count, 4), jnp.cos(normal(count, 4))],
    ),
    Operation(
        "displace_scalar", pp.displace_scalar_p, displace_scalar, plain_displace_scalar,
        lambda count: [normal(count, 4), 3 * jnp.cos(normal(count, 4))],
    ),
    Operation(
        "displace_cumsum", pp.displace_cumsum_p, lambda r: jnp.stack(pp.displace_cumsum_p.bind(r), -1),
        plain_displace_cumsum, lambda count: [normal(count, 6)],
    ),
    Operation(
        "scalar", pp.scalar_p, lambda x: pp.scalar_p.bind(x, function="log_sigmoid", parameters=())[0],
        jax.nn.log_sigmoid, lambda count: [normal(count, 4)],
    ),
    Operation(
        "select", pp.select_p, lambda *x: pp.select_p.bind(*x, compare="le")[0],
        lambda x, y, a, b: jnp.where(x <= y, a, b),
        lambda count: [normal(count, 4), jnp.cos(normal(count, 4)), normal(count, 4) ** 2, normal(count, 4)],
    ),
    Operation(
        "displace_max", pp.displace_max_p, displace_max, plain_displace_max,
        lambda count: [jnp.round(2 * normal(count, 3, 7)), jnp.cos(normal(count, 3))],
    ),
    Operation(
        "displace_cross_entropy", pp.displace_cross_entropy_p,
        lambda x, y: pp.displace_cross_entropy_p.bind(x, y, jnp.full(x.shape[:-1], 0.3))[0],
        plain_displace_cross_entropy, lambda count: logits_and_labels(count),
    ),
    Operation(
        "convolve", pp.convolve_p, convolve, plain_convolve,
        lambda count: [normal(count, 2, 4, 5, 3), jnp.cos(normal(count, 4, 2, 2, 3))],
    ),
    Operation(
        "normalize", pp.normalize_p,
        lambda x: pp.normalize_p.bind(x, axes=(-1,), eps=0.1, center=True)[0],
        lambda x: (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 0.1),
        lambda count: [normal(count, 3, 7)],
    ),
    Operation(
        "softmax", pp.softmax_p,
        lambda x: pp.softmax_p.bind(x, axes=(-1,))[0],
        lambda x: jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True),
        lambda count: [normal(count, 3, 7)],
    ),
    Operation("project_linear", pp.project_linear_p, project_linear, plain_project_linear, matrices),
    Operation(
        "displace_dot", pp.displace_dot_p, displace_dot, plain_displace_dot,
        lambda count: [normal(count, 2, 3, 4), jnp.cos(normal(count, 2, 3, 4)), normal(count, 2, 3)],
    ),
    Operation(
        "leave_dot", pp.leave_dot_p, leave_dot, plain_leave_dot,
        lambda count: [*copies_and_means(count)[:4], *jnp.split(normal(5 * count, 2, 3), 5)],
    ),
    Operation(
        "project_convolution", pp.project_convolution_p, project_convolution, plain_project_convolution,
        lambda count: [
            normal(count, 2, 4, 5, 3), jnp.cos(normal(count, 4, 2, 2, 3)), normal(count, 2, 4, 4, 3)
        ],
    ),
    Operation("reflect_dot", pp.reflect_dot_p, reflect_dot, plain_reflect_dot, copies_and_means),
]  # fmt: skip

LOSSES = [row for row in OPERATIONS if row.operands is logits_and_labels]
DIFFERENTIABLE = [row for row in OPERATIONS if not row.definition.chooses]

every_operation = pytest.mark.parametrize("row", OPERATIONS, ids=str)
every_loss = pytest.mark.parametrize("row", LOSSES, ids=str)


@every_operation
def test_value(row: Operation) -> None:
    operands = row.operands(8)
    expected = jax.jit(row.plain)(*operands)
    for apply in (row.apply, jax.jit(row.apply), jax.vmap(row.apply)):
        np.testing.assert_allclose(apply(*operands), expected, rtol=1e-12, atol=1e-15)


@every_operation
def test_vmap_of_vmap(row: Operation) -> None:
    operands = row.operands(6)
    nested = [x.reshape(2, 3, *x.shape[1:]) for x in operands]
    result = jax.jit(jax.vmap(jax.vmap(row.apply)))(*nested)
    np.testing.assert_allclose(
        result.reshape(6, *result.shape[2:]), jax.jit(row.plain)(*operands), rtol=1e-12, atol=1e-15
    )
    if len(operands) > 1:
        shared = jax.jit(jax.vmap(row.apply, (0, *[None] * (len(operands) - 1))))
        one = [x[0] for x in operands[1:]]
        expected = jax.jit(row.plain)(operands[0], *one)
        np.testing.assert_allclose(shared(operands[0], *one), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("row", DIFFERENTIABLE, ids=str)
def test_derivatives(row: Operation) -> None:
    first, *rest = row.operands(8)
    tangent = jnp.cos(first)

    def total(apply: Callable[..., jax.Array]) -> Callable[[jax.Array], jax.Array]:
        return lambda x: jnp.sum(jnp.sin(apply(x, *rest)))

    steps = ("quantize", "one_hot_argmax", "top_k_mask")
    expected = 0 * first if row.name in steps else jax.jit(jax.grad(total(row.plain)))(first)
    for transform in (lambda f: f, jax.jit):
        gradient = transform(jax.grad(total(row.apply)))(first)
        np.testing.assert_allclose(gradient, expected, rtol=1e-11, atol=1e-13)
        forward = transform(lambda x: jax.jvp(total(row.apply), (x,), (tangent,))[1])(first)
        np.testing.assert_allclose(forward, jnp.vdot(expected, tangent), rtol=1e-10, atol=1e-13)
    per_row = jax.jit(jax.vmap(jax.grad(lambda x, *r: jnp.sum(jnp.sin(row.apply(x, *r))))))(first, *rest)
    np.testing.assert_allclose(per_row, expected, rtol=1e-11, atol=1e-13)


def test_second_derivatives() -> None:
    x, y = (operand[0] for operand in logits_and_labels(1))
    p = jax.nn.softmax(x)
    hessian = jax.hessian(lambda x: pjp.cross_entropy(x, y))(x)
    np.testing.assert_allclose(hessian, jnp.diag(p) - jnp.outer(p, p), atol=1e-12)


def assert_same(actual: jax.Array, expected: jax.Array) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-14)


@every_loss
def test_integer_labels_are_one_hot(row: Operation) -> None:
    logits, labels = row.operands(8)
    integers = jnp.argmax(labels, -1)
    expected = row.apply(logits, labels)
    for dtype in ("int32", "uint8", "int64"):
        assert_same(row.apply(logits, integers.astype(dtype)), expected)
    for other in (labels.astype(bool), labels.astype("int32"), np.asarray(labels)):
        assert_same(row.apply(logits, other), expected)
    assert_same(jax.vmap(row.apply)(logits, integers), expected)
    assert_same(jax.jit(row.apply)(logits, integers), expected)
    assert_same(row.apply(logits[0], int(integers[0])), expected[0])
    batches = row.apply(logits.reshape(2, 4, 5), integers.reshape(2, 4))
    assert_same(batches, expected.reshape(2, 4))
    mesh = jax.make_mesh((4,), ("data",))
    with jax.set_mesh(mesh):
        spread = [jax.device_put(x, jax.NamedSharding(mesh, jax.P("data"))) for x in (logits, integers)]
        assert jax.jit(row.apply)(*spread).sharding.spec == jax.P("data")


@every_loss
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_losses_keep_the_dtype(row: Operation, dtype: str) -> None:
    logits, labels = row.operands(8)
    result = row.apply(logits.astype(dtype), labels)
    assert result.dtype == dtype
    assert row.apply(logits.astype(dtype), jnp.argmax(labels, -1)).dtype == dtype
    rounded = logits.astype(dtype).astype("float64")
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(result.astype("float64"), row.plain(rounded, labels), rtol=eps)


def test_the_step_does_not_enter_the_value() -> None:
    logits, labels = logits_and_labels(4)
    for loss in (pjp.cross_entropy, pjp.squared_error):
        np.testing.assert_array_equal(loss(logits, labels, lam=0.1), loss(logits, labels, lam=10.0))


def test_cross_entropy_of_huge_logits() -> None:
    logits = jnp.array([3e38, -3e38, 0.0], "float32")
    assert pjp.cross_entropy(logits, 0) == 0
    gradient = jax.grad(lambda x: pjp.cross_entropy(x, 0))(logits)
    np.testing.assert_array_equal(gradient, [0, 0, 0])


def test_sum_relu_broadcasts() -> None:
    x, bias, shift = normal(4, 3), normal(3), 0.5
    np.testing.assert_allclose(pjp.sum_relu(x, bias, shift), jax.nn.relu(x + bias + shift), rtol=1e-15)
    gradient = jax.grad(lambda b: pjp.sum_relu(x, b).sum())(bias)
    np.testing.assert_array_equal(gradient, jnp.sum(x + bias > 0, 0))


def test_levels_of_the_quantizer() -> None:
    x = jnp.linspace(-3, 3, 1001)
    for levels, scale in ((2, 1.0), (3, 0.5), (17, 2.0)):
        values = np.unique(pjp.quantize(x, levels, scale))
        np.testing.assert_allclose(values, np.linspace(-scale, scale, levels), atol=1e-15)


def test_optax_trains_with_the_losses() -> None:
    """The same function that a constraint graph is made of is a loss for gradient descent."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((64, 4)))
    labels = jnp.asarray((x[:, 0] > 0).astype("int32"))

    def loss(params: dict[str, jax.Array]) -> jax.Array:
        hidden = pjp.sum_relu(x @ params["w"], params["b"])
        return jnp.mean(pjp.cross_entropy(hidden @ params["out"], labels))

    params: Any = {"w": 0.5 * normal(4, 8), "b": jnp.zeros(8), "out": 0.5 * normal(8, 2)}
    optimiser = optax.adam(0.05)
    state = optimiser.init(params)
    start = loss(params)

    @jax.jit
    def step(params: Any, state: Any) -> tuple[Any, Any]:
        updates, state = optimiser.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    for _ in range(50):
        params, state = step(params, state)
    assert loss(params) < 0.2 * start
