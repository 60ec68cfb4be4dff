"""Exact conditions on parameters: nearest points, names, optax, solvers, meshes."""

import re
from collections.abc import Callable
from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array
from scipy.optimize import minimize

import pjax_prim as pjp
from pjax_prim.training.methods import PROJECTION_SOLVERS

KEY = jax.random.key(0)


def contraction(a: Array) -> Array:
    """Every matrix without singular values above 1, from all matrices: s becomes 2 s / (1 + s^2)."""
    return 2 * jnp.linalg.solve(jnp.eye(a.shape[0]) + a @ a.T, a)


def orthogonal(sign: int) -> Callable[[Array], Array]:
    """Orthogonal columns by Cayley's transform of a skew matrix; with either sign of the first row."""

    def columns(a: Array) -> Array:
        skew, one = (a - a.T) / 2, jnp.eye(len(a))
        return jnp.linalg.solve(one + skew, one - skew)[:, :2] * jnp.ones(len(a)).at[0].set(sign)[:, None]

    return columns


Row = tuple[pjp.AbstractRestriction, tuple[int, ...], tuple[int, ...], tuple[Callable[[Array], Array], ...]]
ROWS: dict[str, Row] = {
    "cap": (pjp.SpectralNorm(0.8), (3, 4), (3, 4), (lambda a: 0.8 * contraction(a),)),
    "kernel": (
        pjp.SpectralNorm(0.8, spatial=2),
        (2, 3, 1, 2),
        (2, 6),
        (lambda a: 0.8 * contraction(a).reshape(2, 3, 1, 2),),
    ),
    "columns": (pjp.OrthogonalColumns(), (3, 2), (3, 3), (orthogonal(1), orthogonal(-1))),
    "rows": (
        pjp.OrthogonalRows(),
        (2, 2),
        (2, 2),
        (lambda a: orthogonal(1)(a).T, lambda a: orthogonal(-1)(a).T),
    ),
    "unit": (
        pjp.UnitRows(),
        (2, 3),
        (2, 3),
        (lambda a: a / jnp.sqrt(jnp.sum(jnp.square(a), -1, keepdims=True)),),
    ),
    "non-negative": (pjp.NonNegative(), (2, 3), (2, 3), (jnp.square,)),
}


def least(given: Array, from_: tuple[int, ...], parametrised: Callable[[Array], Array]) -> float:
    """The least squared distance to a set, by a minimiser that knows no more than how to name its points."""
    size = int(np.prod(from_))

    @jax.jit
    @jax.value_and_grad
    def cost(a: Array) -> Array:
        return jnp.sum(jnp.square(parametrised(a.reshape(from_)) - given))

    starts = np.random.default_rng(1).standard_normal((6, size))
    return float(min(minimize(cost, x, jac=True, method="BFGS", options={"gtol": 1e-11}).fun for x in starts))


@pytest.mark.parametrize("name", ROWS)
def test_nearest(name: str) -> None:
    restriction, shape, from_, sets = ROWS[name]
    for scale in (0.3, 1.0, 30.0):
        w = scale * jax.random.normal(KEY, shape)
        found = restriction.project(w)
        best = min(least(w, from_, one) for one in sets)
        assert float(jnp.sum(jnp.square(found - w))) == pytest.approx(best, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("name", ROWS)
def test_in_the_set_in_every_dtype_and_stacked(name: str) -> None:
    """Projecting again changes nothing; a stack is each of its members; vmap is a stack; scales are kept."""
    restriction, shape, *_ = ROWS[name]
    project = jax.jit(restriction.project)
    for dtype, unit in (("float64", 1e-13), ("float32", 3e-6), ("bfloat16", 2e-2)):
        wide = jax.random.normal(KEY, (2, 3, *shape)) * jnp.array([1e-3, 1.0, 1e3]).reshape(
            3, *[1] * len(shape)
        )
        w = wide.astype(dtype)
        found = project(w)
        assert found.dtype == w.dtype
        chex.assert_trees_all_close(project(found), found, rtol=unit, atol=unit)
        chex.assert_trees_all_close(
            jax.jit(jax.vmap(jax.vmap(restriction.project)))(w), found, rtol=unit, atol=unit
        )
        for i, row in enumerate(w.reshape(6, *shape)):
            chex.assert_trees_all_close(found.reshape(6, *shape)[i], project(row), rtol=unit, atol=unit)


def test_singular_values() -> None:
    """Those below the cap stay, also beside very large ones; what is within it stays to the last bit."""
    left, right = (jnp.linalg.qr(jax.random.normal(k, (4, 4)))[0] for k in jax.random.split(KEY))
    for values, expected in (
        ([9e5, 1.5, 0.7, 0.0], [1, 1, 0.7, 0]),
        ([2.0, 1.5, 0.7, 0.1], [1, 1, 0.7, 0.1]),
    ):
        found = pjp.SpectralNorm(1.0).project(left * jnp.array(values) @ right)
        np.testing.assert_allclose(found, left * jnp.array(expected) @ right, atol=1e-8)
    inside = (left * jnp.array([0.99, 0.5, 0.5, 0])) @ right
    np.testing.assert_array_equal(pjp.SpectralNorm(1.0).project(inside), inside)
    both = jnp.stack([inside, 1e6 * inside])
    np.testing.assert_array_equal(pjp.SpectralNorm(1.0).project(both)[0], inside)
    tiny = pjp.SpectralNorm(1e-30).project(left.astype("float32") * 2e-30)
    np.testing.assert_allclose(tiny, left * 1e-30, rtol=1e-4, atol=1e-36)
    np.testing.assert_allclose(
        pjp.OrthogonalColumns().project(left * jnp.array([1e8, 1, 1e-8, 1])), left, atol=1e-7
    )


@pytest.mark.parametrize(
    "restriction", [pjp.SpectralNorm(1.0), pjp.OrthogonalColumns(), pjp.OrthogonalRows()]
)
def test_without_numbers(restriction: pjp.AbstractRestriction) -> None:
    """A degenerate matrix has one of its nearest points, one with NaN stays without a number, alone."""
    found = restriction.project(jnp.zeros((2, 2)).at[0, 0].set(1))
    assert jnp.isfinite(found).all()
    both = restriction.project(jnp.stack([jnp.full((2, 2), jnp.nan), jnp.eye(2)]))
    assert jnp.isnan(both[0]).any() and jnp.isfinite(both[1]).all()
    assert restriction.project(jnp.zeros((3, 0, 0))).shape == (3, 0, 0)


class Model(eqx.Module):
    layers: list[eqx.nn.Linear]
    scale: Array
    count: Array

    def __init__(self) -> None:
        keys = jax.random.split(KEY, 3)
        self.layers = [
            eqx.nn.Linear(n, m, key=k) for n, m, k in ((3, 4, keys[0]), (4, 4, keys[1]), (4, 2, keys[2]))
        ]
        self.scale, self.count = jnp.ones(()), jnp.arange(3)

    def __call__(self, x: Array) -> Array:
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.scale * self.layers[-1](x)


RESTRICTIONS: dict[Any, pjp.AbstractRestriction | None] = {
    "layers.0.weight": pjp.SpectralNorm(0.5),
    "layers.1.weight": pjp.OrthogonalColumns(),
    re.compile(r"layers\.2\.weight"): pjp.Levels((-0.5, 0.0, 0.3)),
    "layers.2.bias": None,
    "layers.*.bias": pjp.NonNegative(),
    "scale": pjp.Bounds(0.25, 0.75),
}
X = jax.random.normal(KEY, (12, 3))
LABELS = jnp.arange(12) % 2


def loss(model: Model, x: Array, labels: Array) -> Array:
    return pjp.cross_entropy(jax.vmap(model)(x), labels)


def check(model: Model, atol: float = 1e-12, levels: float = 0.0) -> None:
    first, second, third = (layer.weight for layer in model.layers)
    assert np.linalg.norm(first, 2) <= 0.5 + atol
    np.testing.assert_allclose(second.T @ second, np.eye(4), atol=atol)
    allowed = jnp.array([-0.5, 0.0, 0.3], third.dtype)
    assert jnp.abs(third[..., None] - allowed).min(-1).max() <= levels
    assert all((layer.bias >= 0).all() for layer in model.layers[:2])
    assert 0.25 <= model.scale <= 0.75


SOLVERS = [
    *(solver.kind() for solver in PROJECTION_SOLVERS.values()),
    pjp.AlternatingProjections(form="expanded", metric=pjp.Metric(weights=2.0)),
    pjp.Anderson(pjp.AlternatingProjections()),
    pjp.Restarted(pjp.ExtrapolatedProjections()),
    pjp.AdaptiveMetric(pjp.AlternatingProjections()),
    pjp.ReflectReflectRelax(restriction=None),
]


@pytest.mark.parametrize(
    "solver",
    [pytest.param(x, marks=pytest.mark.slow if i % 4 != 2 else ()) for i, x in enumerate(SOLVERS)],
    ids=lambda x: type(x).__name__,
)
def test_solvers(solver: pjp.AbstractSolver) -> None:
    """Every solver returns parameters in their sets, also where it reads their own variables."""
    readout = "governing" if isinstance(solver, pjp.DouglasRachford) else "shadow"
    found = pjp.solve(
        loss, Model(), X, LABELS, solver=solver, max_steps=3, readout=readout, restrictions=RESTRICTIONS
    )
    check(found.params)


def test_a_solve_goes_on() -> None:
    """From its state, as one that was not interrupted; with other restrictions it is another program."""
    settings: dict[str, Any] = {"solver": pjp.ExtrapolatedProjections(), "restrictions": RESTRICTIONS}
    whole = pjp.solve(loss, Model(), X, LABELS, max_steps=3, **settings)
    state = pjp.solve(loss, Model(), X, LABELS, max_steps=2, **settings).state
    rest = pjp.solve(loss, Model(), X, LABELS, max_steps=1, state=state, **settings)
    chex.assert_trees_all_close(rest.params, whole.params, rtol=1e-12)
    free = pjp.solve(loss, Model(), X, LABELS, max_steps=3, **settings | {"restrictions": None})
    assert np.linalg.norm(free.params.layers[0].weight, 2) > 0.5


def test_a_parameter_is_projected_from_the_mean_of_its_copies() -> None:
    """Of w x = y for two rows: one alternating step moves w to the nearest allowed point to the mean."""

    def fit(w: Array, x: Array, y: Array) -> Array:
        return pjp.equality(x @ w, y)

    given = jnp.array([[1.0, 2.0]]), jnp.ones((2, 1)), jnp.array([[2.0, 2.0], [4.0, 4.0]])
    problem = pjp.FeasibilityProblem.of(fit, *given, restrictions=pjp.Bounds(-1, 1.5))
    free = pjp.FeasibilityProblem.of(fit, *given)
    solver = pjp.AlternatingProjections(form="expanded")
    for one, expected in ((free, lambda w: w), (problem, lambda w: jnp.clip(w, -1, 1.5))):
        state, _ = one.step(solver, free.init(solver))
        found = one.parameters(solver, state)
        again, _ = free.step(solver, free.init(solver))
        np.testing.assert_allclose(found, expected(free.parameters(solver, again)))
    assert (problem.parameters(solver, problem.init(solver)) <= 1.5).all()


def test_starts() -> None:
    solver = pjp.ReflectReflectRelax()
    found = pjp.solve_starts(
        loss, lambda key: Model(), X, LABELS, key=KEY, starts=2, solver=solver, max_steps=2, chunk=2,
        restrictions={"layers.0.weight": pjp.SpectralNorm(0.5), "scale": pjp.Bounds(0.25, 0.75),
                      "*": pjp.NonNegative()},
    )  # fmt: skip
    assert all(np.linalg.norm(w, 2) <= 0.5 + 1e-12 for w in found.params.layers[0].weight)
    assert (found.params.layers[1].weight >= 0).all()


def test_after_any_optax_step() -> None:
    """As an update up to rounding, as a projection exactly; what is free moves as it would."""
    model = jax.tree.map(lambda x: x.astype("float32") if eqx.is_inexact_array(x) else x, Model())
    trained = eqx.filter(model, eqx.is_inexact_array)
    direction = pjp.displacement(loss)(model, X.astype("float32"), LABELS)
    made = optax.chain(optax.sgd(1.0, momentum=0.9), pjp.restricted(None, RESTRICTIONS))
    updates, _ = jax.jit(made.update)(direction, made.init(trained), trained)
    moved = eqx.apply_updates(model, updates)
    check(moved, 1e-5, 1e-7)
    check(pjp.project_params(moved, RESTRICTIONS), 1e-5)
    inner = optax.adam(0.1)
    updates, _ = inner.update(direction, inner.init(trained), trained)
    moved, _ = pjp.restricted(inner, RESTRICTIONS).update(direction, inner.init(trained), trained)
    np.testing.assert_array_equal(moved.layers[2].bias, updates.layers[2].bias)
    check(eqx.apply_updates(model, moved), 1e-5, 1e-7)
    wrapped = pjp.restricted(inner, RESTRICTIONS).init(trained)
    assert jax.tree.structure(wrapped) == jax.tree.structure(inner.init(trained))


def test_divided_parameters() -> None:
    """On a mesh the nearest points are those of one device."""
    mesh = jax.make_mesh((4,), ("fsdp",), axis_types=(AxisType.Auto,))
    w = 3 * jax.random.normal(KEY, (8, 4))
    for spec in (PartitionSpec("fsdp"), PartitionSpec(None, "fsdp")):
        divided = jax.device_put(w, NamedSharding(mesh, spec))
        for restriction in (pjp.SpectralNorm(1.0), pjp.OrthogonalColumns(), pjp.UnitRows(), pjp.Sparse(2)):
            found = jax.jit(
                lambda x, r=restriction: pjp.project_params(x, r), out_shardings=NamedSharding(mesh, spec)
            )(divided)
            np.testing.assert_allclose(found, restriction.project(w), atol=1e-12)


@pytest.mark.parametrize(
    ("restrictions", "message"),
    [
        (3, r"restrictions: expected a restriction, a mapping from patterns .*, given 3"),
        ([("a", None, 1)], r"restrictions: expected a restriction, a mapping .*, given \[\('a', None, 1\)\]"),
        ([(1, None)], r"restrictions: expected patterns of paths such as .*, given 1"),
        ({"scale": 2.0}, r"restrictions: 'scale': expected a restriction such as .* or None, given 2.0"),
        (
            {"layer.*": None},
            r"restrictions: 'layer\.\*' matches no parameter; there are layers\.0\.weight, .*scale",
        ),
        (
            pjp.SpectralNorm(1.0),
            r"restrictions: layers\.0\.bias: SpectralNorm.* at least 2 axes .*shape \(4,\)",
        ),
        (
            {"scale": pjp.UnitRows()},
            r"restrictions: scale: UnitRows.* expects at least one axis, given shape \(\)",
        ),
        (
            {"layers.2.weight": pjp.OrthogonalColumns()},
            r"layers\.2\.weight: .* at least as many rows as columns",
        ),
        ({"layers.0.weight": pjp.OrthogonalRows()}, r"layers\.0\.weight: .* at most as many rows as columns"),
        ({"layers.0.weight": pjp.SpectralNorm(1.0, spatial=2)}, r"at least 4 axes \(spatial=2\)"),
    ],
)
def test_errors(restrictions: Any, message: str) -> None:
    model = Model()
    trained = eqx.filter(model, eqx.is_inexact_array)
    for use in (
        lambda: pjp.project_params(model, restrictions),
        lambda: pjp.restricted(optax.sgd(1.0), restrictions).init(trained),
        lambda: pjp.solve(
            loss, model, X, LABELS, solver=pjp.DouglasRachford(), max_steps=1, restrictions=restrictions
        ),
    ):
        with pytest.raises(pjp.ArgumentError, match=message):
            use()


def test_other_errors() -> None:
    with pytest.raises(
        pjp.ArgumentError, match="optimiser: expected an optax transformation or None, given 'adam'"
    ):
        pjp.restricted("adam", pjp.NonNegative())  # type: ignore[arg-type]
    with pytest.raises(pjp.ArgumentError, match="params: expected the parameters"):
        made = pjp.restricted(optax.sgd(1.0), pjp.NonNegative())
        made.update(jnp.ones(3), made.init(jnp.ones(3)))
    with pytest.raises(
        pjp.ArgumentError, match="restrictions: params: expected real numbers, given dtype complex128"
    ):
        pjp.project_params(jnp.ones(3) * 1j, pjp.NonNegative())
    for bad in (0.0, float("inf"), -1.0):
        with pytest.raises(pjp.ArgumentError, match="cap: expected a finite number above zero"):
            pjp.SpectralNorm(bad)
    with pytest.raises(pjp.ArgumentError, match="spatial: expected an integer of at least 0, given True"):
        pjp.SpectralNorm(1.0, True)
