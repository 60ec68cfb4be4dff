"""What holds for every projection under every transformation of JAX."""

import itertools
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import pjax_prim.primitives as pp
from pjax_prim import lowering

from .cases import CASES, ROWS, Case
from .operations import OPERATIONS

ONE_EACH = list({case.name: case for case in CASES}.values())
"""One row per projection; the other rows differ in static settings alone."""

every_projection = pytest.mark.parametrize("case", ONE_EACH, ids=lambda case: case.name)


def queries(case: Case, count: int = 8, dtype: Any = "float64") -> list[jax.Array]:
    rows = case.random(np.random.default_rng(0), count, case.sizes[-1])
    return [jnp.asarray(row, dtype) for row in rows]


@cache
def batched(case: Case, *axes: int | None) -> Callable[..., tuple[Any, ...]]:
    """The projection of many queries, compiled: what the tests of a row compare with.

    `test_variants` holds it against the projection that is not compiled.
    """
    return jax.jit(jax.vmap(case.project, axes or 0))


def assert_close(actual: Any, expected: Any) -> None:
    chex.assert_trees_all_close(tuple(actual), tuple(expected), rtol=1e-12, atol=1e-12)


def test_every_primitive_has_a_row() -> None:
    rows = {case.definition.name for case in CASES} | {row.definition.name for row in OPERATIONS}
    assert rows == {name for name in pp.DEFINITIONS if not name.startswith("pjax_test_")}


def test_names_follow_the_functions() -> None:
    for row in (*CASES, *OPERATIONS):
        assert row.definition.name == f"pjax_{row.name}"
        assert getattr(pp, f"{row.name}_p") is row.definition


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_points_of_the_set_stay(case: Case) -> None:
    query = [np.asarray(row) for row in case.feasible(*queries(case, 64))]
    parts = [batched(case)(*(x[i : i + 8] for x in query)) for i in range(0, 64, 8)]
    for moved, q in zip(zip(*parts, strict=True), query, strict=False):
        scale = sum(float(np.max(np.abs(y))) for y in query)
        tolerance = 1e-14 * scale * scale + 1e-14 * scale
        np.testing.assert_allclose(np.concatenate(moved), q, rtol=0, atol=tolerance)


@every_projection
def test_vmap_is_a_loop(case: Case) -> None:
    query = queries(case)
    expected = [np.stack(x) for x in zip(*(case.project(*q) for q in zip(*query, strict=True)), strict=True)]
    assert_close(batched(case)(*query), expected)


@every_projection
def test_vmap_with_operands_in_common(case: Case) -> None:
    query = queries(case)
    for common in range(len(query)):
        axes = [None if i == common else 0 for i in range(len(query))]
        operands = [q[0] if i == common else q for i, q in enumerate(query)]
        tiled = [jnp.broadcast_to(q[0], q.shape) if i == common else q for i, q in enumerate(query)]
        assert_close(batched(case, *axes)(*operands), batched(case)(*tiled))


@every_projection
def test_derivatives_are_differences(case: Case) -> None:
    """Forward-mode derivatives by what may be any number; labels and weights stay."""
    query = queries(case, 16)
    rng, size = np.random.default_rng(1), 1e-6
    tangents = [
        jnp.asarray(rng.standard_normal(q.shape)) * (kind not in ("labels", "weights"))
        for kind, q in zip(case.operands, query, strict=True)
    ]

    def at(t: Any) -> Any:
        return jax.vmap(case.project)(*(q + t * v for q, v in zip(query, tangents, strict=True)))

    value_and_derivative = jax.jit(lambda t, v: jax.jvp(at, (t,), (v,)))
    (lower, _), (upper, _), (_, found) = (value_and_derivative(t, 1.0) for t in (-size, size, 0.0))
    for below, above, derivative in zip(lower, upper, found, strict=True):
        expected = (above - below) / (2 * size)
        np.testing.assert_allclose(derivative, expected, rtol=1e-5, atol=1e-6 * jnp.max(jnp.abs(expected)))


@every_projection
def test_vmap_of_vmap(case: Case) -> None:
    query = queries(case)
    one_by_one = batched(case)(*query)
    nested = [q.reshape(2, 4, *q.shape[1:]) for q in query]
    # The outer axis is absent from the first operand, the inner one from the last.
    first, *middle, last = nested
    axes_in = [0] * (len(nested) - 1) + [None]
    axes_out = [None] + [0] * (len(nested) - 1)
    tiled = [
        jnp.broadcast_to(first[:1], first.shape),
        *middle,
        jnp.broadcast_to(last[:, :1], last.shape),
    ]
    turned = [jnp.moveaxis(q, 0, -1) for q in query]

    @jax.jit
    def project(nested: Any, mixed: Any, turned: Any) -> tuple[Any, ...]:
        return (
            jax.vmap(jax.vmap(case.project))(*nested),
            jax.vmap(jax.vmap(case.project, axes_in), axes_out)(*mixed),
            jax.vmap(case.project, -1)(*turned),  # another position of the mapped axis
        )

    found = project(nested, (first[0], *middle, last[:, 0]), turned)
    assert_close(found[0], [x.reshape(2, 4, *x.shape[1:]) for x in one_by_one])
    flat = batched(case)(*(x.reshape(8, *x.shape[2:]) for x in tiled))
    assert_close(found[1], [x.reshape(2, 4, *x.shape[1:]) for x in flat])
    assert_close(found[2], one_by_one)


class Variants(chex.TestCase):
    """Eager and jitted agree."""

    @chex.variants(with_jit=True, without_jit=True)
    def test_variants(self) -> None:
        for case in ONE_EACH:
            query = queries(case)
            expected = batched(case)(*query)
            assert_close(self.variant(jax.vmap(case.project))(*query), expected)


@every_projection
def test_jit_is_eager(case: Case) -> None:
    for one in zip(*queries(case, 3), strict=True):
        chex.assert_trees_all_equal(tuple(jax.jit(case.project)(*one)), tuple(case.project(*one)))


@every_projection
def test_scan(case: Case) -> None:
    query = queries(case)

    def body(carry: jax.Array, row: list[jax.Array]) -> tuple[jax.Array, tuple[Any, ...]]:
        moved = tuple(case.project(*row))
        return carry + jnp.sum(moved[0]), moved

    total, moved = jax.lax.scan(body, jnp.zeros(()), query)
    expected = batched(case)(*query)
    assert_close(moved, expected)
    np.testing.assert_allclose(total, jnp.sum(expected[0]), rtol=1e-12)


@every_projection
@pytest.mark.parametrize(
    ("common", "run"),
    [
        (None, True),
        # Axes are checked by tracing; values with operands in common are those of the test above.
        *((common, False) for common in (0, -1)),
        *(pytest.param(common, True, marks=pytest.mark.slow) for common in (0, -1)),
    ],
)
def test_shard_map_with_checked_varying_axes(case: Case, common: int | None, run: bool) -> None:
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    query = queries(case)
    axes: list[int | None] = [0] * len(query)
    specs = [P("data")] * len(query)
    if common is not None:
        query[common], axes[common], specs[common] = query[common][0], None, P()
    repeatable = common is None or common % len(query) >= case.moved  # results have the shapes of operands

    @jax.jit
    @jax.shard_map(mesh=mesh, in_specs=tuple(specs), out_specs=P("data"), check_vma=True)
    def sharded(*rows: jax.Array) -> tuple[Any, ...]:
        project = jax.vmap(case.project, axes)

        def step(carry: tuple[Any, ...], _: None) -> tuple[tuple[Any, ...], None]:
            return tuple(project(*carry, *rows[case.moved :])), None

        if common is None:
            return jax.lax.scan(step, rows[: case.moved], None, length=2)[0]
        start = tuple(project(*rows))  # a scan carry keeps its varying axes
        return jax.lax.scan(step, start, None, length=1)[0] if repeatable else start

    if not run:
        rows = [q if axis is None else q[0] for q, axis in zip(query, axes, strict=True)]
        found = jax.eval_shape(sharded, *query)
        assert [x.shape for x in found] == [(8, *row.shape) for row in rows[: case.moved]]
        return
    expected = batched(case, *axes)(*query)
    if repeatable:
        expected = batched(case, *[0] * case.moved, *axes[case.moved :])(*expected, *query[case.moved :])
    assert_close(sharded(*query), expected)


@every_projection
def test_explicit_mesh(case: Case) -> None:
    mesh = jax.make_mesh((4,), ("data",))
    query = queries(case)
    expected = batched(case)(*query)
    with jax.set_mesh(mesh):
        rows = [jax.device_put(q, jax.NamedSharding(mesh, P("data"))) for q in query]

        @jax.jit
        def project(*rows: jax.Array) -> tuple[Any, ...]:
            moved = tuple(jax.vmap(case.project)(*rows))
            assert all(jax.typeof(x).sharding.spec[0] == "data" for x in moved)
            return moved

        moved = project(*rows)
        assert all(x.sharding.spec[0] == "data" for x in moved)
        chex.assert_trees_all_close([np.asarray(x) for x in moved], [np.asarray(x) for x in expected],
                                    rtol=1e-12, atol=1e-12)  # fmt: skip
        # One operand replicated, and mapped by no axis.
        for common in range(len(rows)):
            axes = [None if i == common else 0 for i in range(len(rows))]
            mixed = [q[0] if i == common else r for i, (q, r) in enumerate(zip(query, rows, strict=True))]
            shapes = jax.jit(jax.vmap(case.project, axes)).eval_shape(*mixed)
            assert all(x.sharding.spec[0] == "data" for x in shapes)


@every_projection
def test_export(case: Case) -> None:
    query = queries(case)
    exported = jax.export.export(jax.jit(jax.vmap(case.project)), platforms=["cpu", "cuda", "tpu"])(*query)
    expected = batched(case)(*query)
    assert_close(exported.call(*query), expected)
    if find_spec("flatbuffers"):  # what `serialize` needs
        assert_close(jax.export.deserialize(exported.serialize()).call(*query), expected)


def lowered(function: Callable[..., Any], operands: list[jax.Array]) -> str:
    return jax.jit(function).lower(*operands).as_text()


@pytest.mark.parametrize("row", [*ONE_EACH, *OPERATIONS], ids=lambda row: row.name)
def test_name_in_lowered_text(row: Any) -> None:
    function = row.project if isinstance(row, Case) else row.apply
    query = queries(row) if isinstance(row, Case) else row.operands(8)
    call = f"call @{row.definition.name}("
    assert call in lowered(function, [q[0] for q in query])
    many = (batched(row) if isinstance(row, Case) else jax.jit(jax.vmap(function))).lower(*query)
    assert call in many.as_text()
    nested = [q.reshape(2, 4, *q.shape[1:]) for q in query]
    assert call in lowered(jax.vmap(jax.vmap(function)), nested)
    if row.name in ("project_equality", "minimise"):
        return  # they leave no instruction
    assert row.definition.name in many.compile().as_text()  # profiles show the name


@pytest.mark.parametrize(
    "row",
    [row for row in (*ONE_EACH, *OPERATIONS) if row.definition.types is not row.definition.reference],
    ids=lambda row: row.name,
)
def test_abstract_types_are_those_of_the_reference(row: Any) -> None:
    function = row.project if isinstance(row, Case) else row.apply
    query = queries(row) if isinstance(row, Case) else row.operands(8)
    dtypes = ("float64", "bfloat16") if isinstance(row, Case) else ("float64",)  # settings may name one
    mesh = jax.make_mesh((4,), ("data",))
    # Its reference reshapes divided axes, which explicit meshes refuse.
    spec = P() if row.name == "project_convolution" else P("data")
    for common, dtype in itertools.product((None, *range(len(query))), dtypes):
        with jax.set_mesh(mesh):
            given = [x.astype(dtype) for x in query]
            spread = jax.NamedSharding(mesh, spec)
            rows = [x[0] if i == common else jax.device_put(x, spread) for i, x in enumerate(given)]
            mapped = jax.vmap(function, [None if i == common else 0 for i in range(len(rows))])
            jaxpr = jax.make_jaxpr(mapped)(*rows)
            (equation,) = [e for e in jaxpr.eqns if e.primitive is row.definition.primitive]
            static = {name: x for name, x in equation.params.items() if name != "lowering"}
            expected, found = (
                jax.make_jaxpr(partial(f, **static))(*(x.aval for x in equation.invars)).out_avals
                for f in (row.definition.reference, row.definition.types)
            )
        assert found == expected


def test_a_primitive_of_ones_own() -> None:
    definition = pp.define("pjax_test_negate", lambda x: (-x,), differentiable=True)
    try:
        lowering.register(definition)
        x = jnp.arange(3.0)
        chex.assert_trees_all_equal(jax.vmap(lambda x: definition.bind(x)[0])(x), -x)
        assert jax.grad(lambda x: definition.bind(x)[0])(2.0) == -1
        assert "call @pjax_test_negate(" in lowered(lambda x: definition.bind(x)[0], [x])
        with pytest.raises(ValueError, match="already defined"):
            pp.define("pjax_test_negate", lambda x: (x,))
    finally:
        del pp.DEFINITIONS["pjax_test_negate"]


@every_projection
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_dtypes_are_kept(case: Case, dtype: str) -> None:
    query = queries(case, dtype=dtype)

    one = jax.eval_shape(case.project, *(q[0] for q in query))
    # Results in the other dtypes are those of test_exact.py.
    many = batched(case)(*query) if dtype == "float16" else batched(case).eval_shape(*query)
    for moved in (one, many):
        for x, q in zip(moved, query, strict=False):
            assert x.dtype == q.dtype and not x.weak_type
    if dtype == "float16":
        assert all(np.isfinite(x).all() for x in many)


@every_projection
def test_bound_operands_keep_their_own_dtypes(case: Case) -> None:
    query = [q.astype("bfloat16" if i % 2 else "float32") for i, q in enumerate(queries(case))]
    moved = case.definition.bind(*query, **bind_settings(case))
    assert [x.dtype for x in moved] == [q.dtype for q in query[: case.moved]]


def bind_settings(case: Case) -> dict[str, Any]:
    """The static parameters that a public function binds."""
    jaxpr = jax.make_jaxpr(case.project)(*(q[0] for q in queries(case, 1)))
    (equation,) = [e for e in jaxpr.eqns if e.primitive is case.definition.primitive]
    return dict(equation.params)


@every_projection
def test_python_numbers_are_weak(case: Case) -> None:
    """A number beside float32 arrays does not widen them, and alone is a float."""
    scalars = [i for i, kind in enumerate(case.operands) if kind == "scalar"]
    query = [q[0] for q in queries(case, 1, "float32")]
    for i in scalars[case.operands[0] == "scalar" :]:
        operands = [float(q) if j == i else q for j, q in enumerate(query)]
        assert all(x.dtype == jnp.float32 for x in case.project(*operands))
    if all(kind == "scalar" for kind in case.operands):
        assert all(x.dtype == jnp.result_type(float) for x in case.project(*[1] * len(query)))


NO_MATTER = {("project_equality", 0), ("project_margin", 1)}
"""Operands that a projection does not read, or that are checked to be one-hot."""


@every_projection
def test_nan_in_is_nan_out(case: Case) -> None:
    """In one result at least, and not in those of other queries."""
    query = queries(case)
    for operand, values in enumerate(query):
        if (case.name, operand) in NO_MATTER:
            continue
        spoilt = np.array(values).reshape(len(values), -1)
        spoilt[3, -1] = np.nan
        given = [jnp.asarray(spoilt.reshape(q.shape)) if i == operand else q for i, q in enumerate(query)]
        missing = [np.isnan(np.asarray(x)).reshape(len(x), -1).any(1) for x in batched(case)(*given)]
        np.testing.assert_array_equal(np.any(missing, 0), np.arange(len(values)) == 3)


FINITE = st.floats(-1e3, 1e3, width=32)
few = hypothesis.settings(max_examples=60, deadline=None, derandomize=True)


@few
@hypothesis.given(st.lists(FINITE, min_size=5, max_size=5), FINITE, st.permutations(range(5)))
def test_permutations_commute(a: list[float], z: float, order: list[int]) -> None:
    """Sum, mean, max and relu of sums treat their inputs alike."""
    x, turned = jnp.asarray(a), jnp.asarray(a)[jnp.asarray(order)]
    close = dict(rtol=1e-10, atol=1e-10)
    for project in (pp.project_sum, pp.project_mean):
        np.testing.assert_allclose(project(turned, z), project(x, z)[jnp.asarray(order)], **close)
    np.testing.assert_allclose(jnp.sort(pp.project_max(turned, z)), jnp.sort(pp.project_max(x, z)), **close)
    plain = jnp.stack(pp.project_sum_relu(tuple(x), z))
    mixed = jnp.stack(pp.project_sum_relu(tuple(turned), z))
    np.testing.assert_allclose(mixed, plain[jnp.asarray(order)], rtol=1e-6, atol=1e-6)


@few
@hypothesis.given(*[st.lists(FINITE, min_size=3, max_size=3)] * 2, FINITE)
def test_symmetries_of_the_dot_product(a: list[float], b: list[float], z: float) -> None:
    x, y = jnp.asarray(a), jnp.asarray(b)
    left, right = pp.project_dot(x, y, z)
    for signs, swapped in (((1, 1), True), ((-1, -1), False)):
        operands = (y, x) if swapped else (signs[0] * x, signs[1] * y)
        moved = pp.project_dot(*operands, z)
        expected = (right, left) if swapped else (signs[0] * left, signs[1] * right)
        distances = [
            jnp.sum((m - o) ** 2) for m, o in zip((*moved, *expected), (*operands, *operands), strict=True)
        ]
        np.testing.assert_allclose(sum(distances[:2]), sum(distances[2:]), rtol=1e-6, atol=1e-9)


@few
@hypothesis.given(*[st.lists(FINITE, min_size=4, max_size=4)] * 2, FINITE, FINITE)
def test_convex_sets_are_firmly_nonexpansive(p: list[float], q: list[float], y: float, z: float) -> None:
    x, other, labels = jnp.asarray(p), jnp.asarray(q), jnp.eye(4)[1]
    maps: list[Callable[[jax.Array], jax.Array]] = [
        lambda v: pp.project_margin(v, labels),
        lambda v: pp.prox_cross_entropy(v, labels),
        lambda v: pp.prox_squared_error(v, other),
    ]
    for project in maps:
        step = project(x) - project(other)
        assert jnp.vdot(step, step) <= jnp.vdot(step, x - other) + 1e-9
    affine: list[Callable[..., jax.Array]] = [pp.project_sum, pp.project_mean]
    for onto in affine:
        step = onto(x, y) - onto(other, z)
        assert jnp.vdot(step, step) <= jnp.vdot(x - other, x - other) + (y - z) ** 2 + 1e-9


def test_sign_is_the_quantizer_of_two_levels() -> None:
    rng = np.random.default_rng(0)
    a, z = rng.standard_normal((2, 1000))
    chex.assert_trees_all_equal(pp.project_sign(a, z), pp.project_quantize(a, z))


def test_cross_entropy_takes_enough_steps() -> None:
    """Logits for which Newton's method drops one class a step: the slowest known."""
    for n in (3, 10, 30, 100):
        gaps = np.cumprod(np.arange(3, n + 1, dtype=float)[:15])
        delta = 0.25 * gaps / gaps[-1]
        sums, c = -0.5, [0.0, -0.5]
        for k, d in enumerate(delta, 3):
            c.append((sums - 1) / (k - 1) - d)
            sums += c[-1]
        c += [c[-1]] * (n - len(c))
        for lam in (1e2, 1e6, 1e12):
            labels = np.eye(n)[0]
            logits = lam * np.array(c) - lam * labels
            x = np.asarray(pp.prox_cross_entropy(logits, labels, lam=lam))
            p = np.exp(x - x.max()) / np.sum(np.exp(x - x.max()))
            gradient = x - logits + lam * (p - labels)
            assert np.abs(x - logits).sum() > 0 and np.isfinite(gradient).all()
            again = (logits - x) / lam + labels  # the probabilities that x stands for
            assert abs(again.sum() - 1) < 1e-9 and again.min() > -1e-9
