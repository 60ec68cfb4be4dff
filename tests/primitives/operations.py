"""A row for each operation of models and each part of a solver step, beside plain `jax.numpy`."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

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
    return jnp.stack(pp.displace_scalar_p.bind(x, z, function="silu", parameters=()), -1)


def plain_displace_scalar(x: jax.Array, z: jax.Array) -> jax.Array:
    moved = pp.project_scalar(x, z + 0 * x, "silu")
    return jnp.stack([moved - x, jax.nn.silu(moved)], -1)


def matrices(count: int) -> list[jax.Array]:
    return [normal(count, 3, 4), jnp.cos(normal(count, 2, 4)), 3 * normal(count, 3, 2)]


def project_linear(a: jax.Array, b: jax.Array, z: jax.Array) -> jax.Array:
    results = pp.project_linear_p.bind(a, b, z, wanted=(True, True), precision=None, operand_dtype=a.dtype)
    return rows_of(results, results[0])


def plain_project_linear(a: jax.Array, b: jax.Array, z: jax.Array) -> jax.Array:
    p_a, p_b = project_rows(a[..., :, None, :], b[..., None, :, :], z)
    move_a, move_b = p_a - a[..., :, None, :], p_b - b[..., None, :, :]
    moved = jnp.sum(move_a**2 + move_b**2, (-3, -2, -1))
    means, output = (jnp.mean(move_a, -2), jnp.mean(move_b, -3)), jnp.sum(p_a * p_b, -1)
    return rows_of((output, *means, moved), output)


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
        *operands, window=WINDOW, wanted=(True, True), precision=None,
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


def correlate(*operands: jax.Array) -> jax.Array:
    return pp.correlate_p.bind(*operands, window=WINDOW, precision=None, dtype=None)[0]


def plain_correlate(*operands: jax.Array) -> jax.Array:
    outer = jnp.broadcast_shapes(*(x.shape[:-4] for x in operands))
    rows = [jnp.broadcast_to(x, outer + x.shape[-4:]).reshape(-1, *x.shape[-4:]) for x in operands]
    filters = jnp.zeros((4, 2, *WINDOW.kernel))
    results = [
        jax.vjp(lambda w, x=x: WINDOW.convolve(x, w, None), filters)[1](y)[0]
        for x, y in zip(*rows, strict=True)
    ]
    return jnp.stack(results).reshape(*outer, *filters.shape)


def spread(*operands: jax.Array) -> jax.Array:
    return pp.spread_p.bind(
        *operands, window=WINDOW, precision=None, dtype=jnp.dtype("float64"), shape=(2, 4, 5, 3)
    )[0]


def plain_spread(*operands: jax.Array) -> jax.Array:
    outer = jnp.broadcast_shapes(*(x.shape[:-4] for x in operands))
    rows = [jnp.broadcast_to(x, outer + x.shape[-4:]).reshape(-1, *x.shape[-4:]) for x in operands]
    image = jnp.zeros((2, 4, 5, 3))
    results = [
        jax.vjp(lambda x, w=w: WINDOW.convolve(x, w, None), image)[1](y)[0]
        for y, w in zip(*rows, strict=True)
    ]
    return jnp.stack(results).reshape(*outer, *image.shape)


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
    p_a, p_b = project_rows(a, b, z.reshape(a.shape[:-1]))
    move_a, move_b = p_a - a, p_b - b
    _, back = jax.vjp(patches_of, x)
    shape = (*move_a.shape[:2], 1, *move_a.shape[3:-1], 2, 6)
    (total,) = back(jnp.sum(move_a, 2, keepdims=True).reshape(shape))
    (counts,) = back(jnp.ones(shape))
    results = (
        jnp.sum(p_a * p_b, -1),
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
        "squared_norm", pp.squared_norm_p,
        lambda x, count: pp.squared_norm_p.bind(x, count, rank=2, count=3)[0],
        lambda x, count: 3 * jnp.sum(x**2 * count, (-1, -2)),
        lambda number: [normal(number, 4, 3), jnp.cos(normal(number, 1, 3)) ** 2],
    ),
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
        "correlate", pp.correlate_p, correlate, plain_correlate,
        lambda count: [normal(count, 2, 4, 5, 3), jnp.cos(normal(count, 2, 4, 4, 3))],
    ),
    Operation(
        "spread", pp.spread_p, spread, plain_spread,
        lambda count: [normal(count, 2, 4, 4, 3), jnp.cos(normal(count, 4, 2, 2, 3))],
    ),
    Operation(
        "normalize", pp.normalize_p,
        lambda x: pp.normalize_p.bind(x, axes=(-1,), eps=0.1, center=True)[0],
        lambda x: (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 0.1),
        lambda count: [normal(count, 3, 7)],
    ),
    Operation(
        "logsumexp", pp.logsumexp_p,
        lambda x: pp.logsumexp_p.bind(x, axes=(-1,))[0],
        lambda x: jnp.log(jnp.exp(x).sum(-1)),
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
