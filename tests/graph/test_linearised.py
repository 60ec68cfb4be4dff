"""Operations without a projection of their own: their nearest points, their graphs, and solving with them."""

import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

import pjax_prim as pjp
from pjax_prim.rules.linearised import Linearised

K = jax.random.key
A, B, C = (jax.random.normal(K(i), (3, 4)) for i in range(3))
X, W, Y = (jax.random.normal(K(i), s) for i, s in enumerate([(8, 5), (5, 3), (8, 3)]))
Forward = Callable[[Array, Array], Any]

pytestmark = [
    pytest.mark.filterwarnings("ignore::pjax_prim.LinearisedConstraintWarning"),
    pytest.mark.filterwarnings("ignore::pjax_prim.UnusedParameterWarning"),
]


def spectral(a: Array, b: Array) -> Array:
    """Complex numbers from a transform to its inverse, and complex weights of two real arrays."""
    return jnp.fft.irfft(jnp.fft.rfft(a, axis=1) * lax.complex(b[:, :3], C[:, :3]), n=4, axis=1)


OPERATIONS: dict[str, tuple[Forward, str]] = {
    # Two parameters of shape (3, 4), and the names of the linearised nodes.
    "fft": (spectral, "fft+complex+mul"),
    "abs of fft": (lambda a, b: jnp.abs(jnp.fft.fft(a) + 1), "convert_element_type+fft"),
    "cumprod": (lambda a, b: jnp.cumprod(a, 1), "cumprod"),
    "reduce_prod": (lambda a, b: jnp.prod(a, 1), "reduce_prod"),
    "sort": (lambda a, b: jnp.sort(a, 1), "sort"),
    "two outputs": (lambda a, b: lax.sort((a, b), dimension=1, num_keys=1), "sort"),
    "top_k": (lambda a, b: lax.top_k(a, 2)[0], "top_k"),
    "solve": (
        lambda a, b: jnp.linalg.solve(a[:, :3] @ b[:, :3].T + 4 * jnp.eye(3), C),
        "lu+custom_linear_solve",
    ),
    "cholesky": (lambda a, b: jnp.linalg.cholesky(a @ a.T + jnp.eye(3)), "cholesky"),
    "triangular_solve": (
        lambda a, b: jax.scipy.linalg.solve_triangular(a[:, :3] + 3 * jnp.eye(3), b, lower=True),
        "triangular_solve",
    ),
    "slogdet": (lambda a, b: jnp.linalg.slogdet(a @ a.T + jnp.eye(3))[1][None], "lu"),
    "atan2": (lambda a, b: jnp.arctan2(a, b), "atan2"),
    "pow": (lambda a, b: (1 + jnp.abs(a)) ** b, "pow"),
    "number to a power": (lambda a, b: 2.0**a, "pow"),
    "lgamma": (lambda a, b: lax.lgamma(2 + a * a), "lgamma"),
    "sinh": (lambda a, b: jax.jit(jnp.sinh)(a), "sinh"),
    "scatter_max": (lambda a, b: a.at[jnp.array([0, 0])].max(b[:2]), "scatter-max"),
    "segment_max": (lambda a, b: jax.ops.segment_max(a, jnp.array([0, 1, 0]), 2), "scatter-max"),
    "cond": (lambda a, b: lax.cond(C[0, 0] > 0, lambda x: 2 * x, jnp.sin, a), "cond"),
    "cond of parameters": (
        lambda a, b: lax.cond(jnp.sum(a) > 0, lambda x: 2 * x, jnp.sin, b),
        "gt+convert_element_type+cond",
    ),
    "chosen by order": (lambda a, b: b[jnp.argmax(a[:, 0])] * jnp.ones(4), "argmax"),
}  # fmt: skip


def graph_of(forward: Forward, params: Any = (A, B)) -> pjp.ConstraintGraph:
    return pjp.constraint_graph(
        lambda p: [pjp.squared_error(x, jnp.zeros(x.shape)) for x in jax.tree.leaves(forward(*p))]
    )(params)


def linearised(graph: pjp.ConstraintGraph) -> list[Any]:
    return [node for node in graph.nodes if isinstance(node.constraint, Linearised)]


@pytest.mark.parametrize("name", OPERATIONS)
def test_nearest_point(name: str) -> None:
    """Against a minimiser of SciPy's that starts where the projection does."""
    forward, title = OPERATIONS[name]
    graph = graph_of(forward)
    node, *_ = linearised(graph)
    assert title in str(graph) and f"linearised_0[{title}" in str(graph)
    constraint = node.constraint
    values = graph.constants([], [np.asarray(x) for x in _captured(forward)])
    constants = tuple(jnp.asarray(values.get(x, x.literal)) for x in node.constants)
    start = tuple(
        0.3 * jnp.abs(jax.random.normal(K(i), x.value.shape))
        + (2 * jnp.eye(*x.value.shape) if len(x.value.shape) == 2 else 1)
        for i, x in enumerate(node.operands)
    )
    output = constraint.forward(start, constants)
    assert output.shape == node.output.shape
    target = output + 0.03 * jax.random.normal(K(9), output.shape)
    moved, found = constraint.project_output(start, target, constants)
    np.testing.assert_allclose(found, constraint.forward(moved, constants), rtol=1e-10, atol=1e-12)

    sizes = np.cumsum([x.size for x in start])[:-1]

    @jax.jit
    @jax.value_and_grad
    def cost(flat: Array) -> Array:
        parts = tuple(x.reshape(y.shape) for x, y in zip(jnp.split(flat, sizes), start, strict=True))
        moves = sum(jnp.sum((x - y) ** 2) for x, y in zip(parts, start, strict=True))
        return moves + jnp.sum((constraint.forward(parts, constants) - target) ** 2)

    flat = jnp.concatenate([x.ravel() for x in start])
    best = scipy.optimize.minimize(cost, flat, jac=True, method="BFGS", tol=1e-10).fun
    reached, _ = cost(jnp.concatenate([x.ravel() for x in moved]))
    assert reached <= cost(flat)[0]
    assert reached <= best * (1 + 1e-3) + 1e-9


def _captured(forward: Forward) -> list[Any]:
    closed = jax.make_jaxpr(
        lambda p: [pjp.squared_error(x, jnp.zeros(x.shape)) for x in jax.tree.leaves(forward(*p))]
    )((A, B))
    return list(closed.consts)


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        # A cyclic sweep projects as alternating projections do: one operation shows it.
        pytest.param(name, solver, marks=pytest.mark.slow if cyclic and name != "two outputs" else ())
        for name in ("fft", "two outputs", "solve", "cond of parameters", "pow")
        for solver in (pjp.AlternatingProjections, pjp.DouglasRachford, pjp.CyclicProjections)
        for cyclic in (solver is pjp.CyclicProjections,)
    ],
)
def test_solvers_close_the_gap(name: str, solver: type[Any]) -> None:
    forward = OPERATIONS[name][0]
    target = jax.tree.map(lambda x: x + 0.1, forward(A + 0.05, B))

    def fn(params: Any) -> Any:
        found = jax.tree.leaves(forward(*params))
        return [pjp.squared_error(x, y, lam=9.0) for x, y in zip(found, jax.tree.leaves(target), strict=True)]

    short, long = (pjp.solve(fn, (A, B), solver=solver(), max_steps=n) for n in (1, 60))
    assert np.isfinite(long.stats["gap"])
    if (name, solver) != ("solve", pjp.DouglasRachford):  # which goes through farther points
        assert long.stats["gap"] < short.stats["gap"]


@pytest.mark.parametrize("form", ["compressed", "expanded"])
def test_forms_agree(form: str) -> None:
    def fn(w: Array) -> Array:
        return pjp.squared_error(jnp.sort(X @ w, -1), Y)

    solver = pjp.AlternatingProjections
    found = pjp.solve(fn, W, solver=solver(form=form), max_steps=3)
    other = pjp.solve(fn, W, solver=solver(), max_steps=3)
    np.testing.assert_allclose(found.params, other.params, rtol=1e-8)


def test_in_the_body_of_a_loop() -> None:
    def fn(w: Array) -> Array:
        def body(h: Array, x: Array) -> tuple[Array, Array]:
            h = jnp.tanh(h + x @ w)
            mixed = jnp.fft.irfft(jnp.fft.rfft(h) * (1 + 0.5j), n=3)
            return h, lax.cond(h[0] > 0, lambda h: 2 * h, lambda h: -h, mixed)

        return pjp.squared_error(lax.scan(body, jnp.zeros(3), X)[1], Y)

    graph = pjp.constraint_graph(fn)(W)
    nodes = linearised(graph)
    assert nodes and all(str(loop) == "scan_0 x8" for node in nodes for loop in node.loops)
    solution = pjp.solve(fn, W, solver=pjp.AlternatingProjections(), max_steps=40)
    assert jnp.mean(fn(solution.params)) < 0.95 * jnp.mean(fn(W))


def test_a_loop_that_carries_a_condition() -> None:
    """Its iterations cannot stand side by side, so that all of it is one operation."""

    def fn(w: Array) -> Array:
        def body(carry: Any, _: None) -> tuple[Any, None]:
            h, done = carry
            h = jnp.where(done, h, 1.2 * h)
            return (h, done | (jnp.sum(jnp.abs(h)) > 20)), None

        return pjp.squared_error(lax.scan(body, (X @ w, jnp.array(False)), None, length=4)[0][0], Y)

    (node,) = linearised(pjp.constraint_graph(fn)(W))
    assert "scan" in node.constraint.name
    found = pjp.solve(fn, W, solver=pjp.AlternatingProjections(), max_steps=3).params
    assert jnp.sum(fn(found)) < 0.99 * jnp.sum(fn(W))


def test_one_warning_names_them_all() -> None:
    def fn(w: Array) -> Array:
        return pjp.squared_error(jnp.sort(jnp.cumprod(X @ w, 0), -1), Y)

    with pytest.warns(pjp.LinearisedConstraintWarning) as caught:
        pjp.constraint_graph(fn)(W)
    (warning,) = [x for x in caught if x.category is pjp.LinearisedConstraintWarning]
    text = str(warning.message)
    assert "2 operation(s)" in text and "[cumprod] (" in text and "[sort] (" in text
    assert text.count("test_linearised.py") == 2
    with warnings.catch_warnings():  # the graph is kept, and so said once
        warnings.simplefilter("error")
        pjp.constraint_graph(fn)(W)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda a, b: (a > b).astype(float), "primitive 'gt'.*can only choose"),
        (lambda a, b: jnp.argmax(a) * jnp.ones(3), "primitive 'argmax'.*chooses by order"),
        (lambda a, b: lax.while_loop(lambda x: jnp.sum(x) < 9, lambda x: x + 1, a), "primitive 'while'"),
    ],
)
def test_without_a_derivative_there_is_none(forward: Forward, message: str) -> None:
    with pytest.raises(pjp.MissingRuleError, match=message) as caught:
        graph_of(forward)
    assert "test_linearised.py" in str(caught.value)


TABLE = jnp.linspace(-3, 3, 7)


@pytest.mark.parametrize(
    "forward",
    [
        lambda h: jnp.interp(h, TABLE, jnp.sin(TABLE)),
        lambda h: h * jnp.sin(TABLE)[jnp.searchsorted(TABLE, h.ravel()).reshape(h.shape)],
        lambda h: h * TABLE[jnp.sum(TABLE < h[..., None], -1)],
        lambda h: h * jnp.max(jnp.histogram(h, bins=TABLE)[0]),
        lambda h: h + jnp.eye(3)[jnp.argmax(h, -1)],
    ],
    ids=["interp", "searchsorted", "counted", "histogram", "argmax"],
)
@pytest.mark.parametrize("solver", [pjp.AlternatingProjections, pjp.JointProjections])
def test_nothing_is_asked_through_a_derivative_of_zero(forward: Any, solver: Any) -> None:
    """Where a parameter reaches the losses otherwise, too; as in a gradient."""
    reachable = forward(X @ (W + 0.1))

    def fn(w: Array) -> Array:
        return pjp.squared_error(forward(X @ w), reachable)

    assert [node.kind for node in pjp.constraint_graph(fn)(W).nodes].count("held") == 1
    solution = pjp.solve(fn, W, solver=solver(), max_steps=60)
    assert solution.result == pjp.RESULTS.max_steps_reached
    assert jnp.mean(fn(solution.params)) < 0.95 * jnp.mean(fn(W))


def test_a_parameter_behind_a_derivative_of_zero_alone() -> None:
    """Gradients would leave it where it is, and say nothing."""

    def fn(weights: tuple[Array, Array]) -> Array:
        first, second = weights
        return pjp.squared_error(jnp.eye(3)[jnp.argmax(X @ first, -1)] @ second, Y)

    with pytest.raises(pjp.MissingRuleError, match="primitive 'argmax'.*chooses by order"):
        pjp.constraint_graph(fn)((W, jnp.eye(3)))


def test_a_check_is_an_identity() -> None:
    def fn(w: Array) -> Array:
        h = eqx.error_if(X @ w, jnp.any(X > 9), "too large")
        h = eqx.error_if(h, jnp.any(jnp.isnan(h)), "unknown")
        return pjp.squared_error(h, Y)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = pjp.constraint_graph(fn)(W)
    assert [node.kind for node in graph.nodes] == ["parameter", "linear", "loss"]


def test_identities_of_large_programs() -> None:
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def fn(w: Array) -> Array:
        h = checkpoint_name(jnp.tanh(X @ w), "h")
        h = lax.with_sharding_constraint(h, jax.NamedSharding(mesh, jax.P("data")))
        h, _ = lax.optimization_barrier((jax.device_put(jnp.copy(h)), X))
        return pjp.squared_error(lax.reduce_precision(h, 8, 23), Y)

    plain = pjp.solve(
        lambda w: pjp.squared_error(jnp.tanh(X @ w), Y), W, solver=pjp.AlternatingProjections(), max_steps=3
    )
    found = pjp.solve(fn, W, solver=pjp.AlternatingProjections(), max_steps=3)
    np.testing.assert_allclose(found.params, plain.params, rtol=1e-6)


def test_half_precision() -> None:
    def solved(dtype: str) -> Array:
        def fn(w: Array) -> Array:
            return pjp.squared_error(
                jnp.cumprod(X.astype(dtype) @ w, 1).astype("float32"), Y.astype("float32")
            )

        solver = pjp.AlternatingProjections()
        return pjp.solve(fn, W.astype(dtype), solver=solver, max_steps=5).params

    found, expected = solved("bfloat16"), solved("float32")
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype("float32"), expected, atol=0.05)
