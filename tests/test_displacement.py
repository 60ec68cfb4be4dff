"""The displacement sweep against sweeps copy by copy, and as a direction for optax."""

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
import scipy.optimize
from jaxtyping import Array

import pjax_prim as pjp
import pjax_prim.primitives as pp
from pjax_prim.data import batch, load
from pjax_prim.models import MLP

LAM = 0.3
KEY = jax.random.key(0)


def loss(model: Any, x: Array, labels: Array) -> Array:
    return pjp.cross_entropy(jax.vmap(model)(x), labels)


def network_and_batch() -> tuple[MLP, Array, Array]:
    keys = jax.random.split(KEY, 2)
    x = jax.random.normal(keys[0], (5, 4))
    return MLP(4, 3, (6,), key=keys[1]), x, jnp.array([0, 1, 2, 1, 0])


def weighted_dot(a: Array, b: Array, z: Array, u: float, v: float) -> tuple[Array, Array]:
    """The displacements of one weighted dot projection, by the unweighted one in scaled vectors."""
    x, y = v**-0.5, u**-0.5
    moved_a, moved_b = pjp.project_dot(a * x, b * y, z * x * y)
    return moved_a / x - a, moved_b / y - b


def projected_dot(
    rows: Array, columns: Array, z: Array, change: np.ndarray, u: float
) -> tuple[np.ndarray, np.ndarray]:
    """The means over copies of rows and columns whose products z are projected, pair by pair."""
    moved = np.zeros(rows.shape), np.zeros(columns.shape)
    for i, k in np.ndindex(*z.shape):
        da, db = weighted_dot(rows[i], columns[k], z[i, k] + change[i, k], u, 1.0)
        moved[0][i] += np.asarray(da) / len(columns)
        moved[1][k] += np.asarray(db) / len(rows)
    return np.asarray(rows) + moved[0], np.asarray(columns) + moved[1]


def by_hand(model: MLP, x: Array, labels: Array) -> dict[str, np.ndarray]:
    """One sweep over one hidden layer, copy by copy: the change goes back at the projected points."""
    (w1, b1), (w2, b2) = ((layer.weight, layer.bias) for layer in model.layers)
    s = x @ w1.T
    h = jax.nn.relu(s + b1)
    p = h @ w2.T
    logits = p + b2
    change = jax.vmap(lambda row, y: pjp.prox_cross_entropy(row, y, lam=LAM))(logits, labels) - logits
    change = np.asarray(change)
    new_h, new_w2 = projected_dot(h, w2, p, change, 1.0)
    below = (change @ new_w2) * np.asarray(h > 0)
    new_x, _ = projected_dot(x, w1, s, below, 1e9)  # data do not move
    moves = {"w1": below.T @ new_x, "b1": below.sum(0), "w2": change.T @ new_h, "b2": change.sum(0)}
    return {name: -value / (LAM * len(x)) for name, value in moves.items()}


def test_a_sweep_copy_by_copy() -> None:
    model, x, labels = network_and_batch()
    found = eqx.filter_jit(pjp.displacement(loss, lam=LAM))(model, x, labels)
    expected = by_hand(model, x, labels)
    first, second = found.layers
    chex.assert_trees_all_close(
        {"w1": first.weight, "b1": first.bias, "w2": second.weight, "b2": second.bias},
        expected,
        rtol=1e-7,
        atol=1e-12,
    )


@pytest.mark.parametrize("weights", [(1.0, 7.0), (0.2, 1.0), (3.0, 50.0)])
def test_weighted_products_are_nearest_points(weights: tuple[float, float]) -> None:
    """Against a minimiser that knows nothing of the scalar equation."""
    rng = np.random.default_rng(0)
    u, v = weights
    for _ in range(5):
        a, b, z = rng.standard_normal(3), rng.standard_normal(3), 3 * rng.standard_normal()

        def cost(point: np.ndarray, a: Any = a, b: Any = b, z: Any = z) -> float:
            x, w = np.split(point, 2)
            return float(u * np.sum((x - a) ** 2) + v * np.sum((w - b) ** 2) + (x @ w - z) ** 2)

        starts = [np.concatenate([a, b]), *rng.standard_normal((6, 6))]
        best = min((scipy.optimize.minimize(cost, x, tol=1e-14) for x in starts), key=lambda r: r.fun)
        output, move_a, move_b, moved = pp.project_linear_p.bind(
            jnp.asarray(a)[None], jnp.asarray(b)[None], jnp.asarray([[z]]), *map(jnp.asarray, weights),
            wanted=(True, True), precision=None, operand_dtype=jnp.dtype("float64"),
        )  # fmt: skip
        point = np.concatenate([a + move_a[0], b + move_b[0]])
        assert cost(point) <= best.fun * (1 + 1e-9) + 1e-12
        np.testing.assert_allclose(output[0, 0], point[:3] @ point[3:], rtol=1e-9, atol=1e-12)
        distance = u * np.sum((point[:3] - a) ** 2) + v * np.sum((point[3:] - b) ** 2)
        np.testing.assert_allclose(moved, distance, rtol=1e-9, atol=1e-12)


def cosine(a: Any, b: Any) -> float:
    x, y = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (a, b))
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_small_steps_point_along_the_gradient_at_its_size(activation: str) -> None:
    model = eqx.nn.MLP(8, 5, 16, 2, activation=getattr(jax.nn, activation), key=KEY)
    x = jax.random.normal(KEY, (32, 8))
    labels = jax.random.randint(KEY, (32,), 0, 5)
    direction = eqx.filter_jit(pjp.displacement(loss, lam=1e-4, weight=1e4))(model, x, labels)
    gradient = eqx.filter_jit(eqx.filter_grad(lambda *args: jnp.mean(loss(*args))))(model, x, labels)
    assert jax.tree.structure(direction) == jax.tree.structure(gradient)
    assert cosine(direction, gradient) > 0.98
    for a, b in zip(jax.tree.leaves(direction), jax.tree.leaves(gradient), strict=True):
        assert 0.7 < np.linalg.norm(a) / np.linalg.norm(b) < 1.4


@pytest.mark.parametrize(
    "optimiser",
    [optax.adam(1e-2), optax.lion(1e-2), optax.sgd(0.1), optax.MultiSteps(optax.sgd(0.2), 2)],
    ids=["adam", "lion", "sgd", "every second"],
)
def test_a_step_of_optax(optimiser: optax.GradientTransformation) -> None:
    model, x, labels = network_and_batch()
    memory = optimiser.init(eqx.filter(model, eqx.is_inexact_array))
    step = eqx.filter_jit(pjp.displacement_step(loss, optimiser))
    new, after, value = step(model, memory, x, labels)
    np.testing.assert_allclose(value, loss(model, x, labels), rtol=1e-6)
    updates, _ = optimiser.update(
        pjp.displacement(loss)(model, x, labels), memory, eqx.filter(model, eqx.is_inexact_array)
    )
    chex.assert_trees_all_close(
        jax.tree.leaves(new), jax.tree.leaves(eqx.apply_updates(model, updates)), rtol=1e-6
    )
    for _ in range(50):
        new, after, value = step(new, after, x, labels)
    assert float(jnp.mean(value)) < 0.8 * float(jnp.mean(loss(model, x, labels)))


@pytest.mark.parametrize(
    "optimiser",
    [
        optax.polyak_sgd(),
        optax.lbfgs(),
        optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(5)),
    ],
    ids=["polyak", "lbfgs", "line search"],
)
def test_an_optimiser_that_needs_a_loss(optimiser: optax.GradientTransformation) -> None:
    model, x, labels = network_and_batch()
    step = pjp.displacement_step(loss, optimiser)
    with pytest.raises(pjp.ArgumentError, match="optimiser: expected one that takes updates.*value"):
        step(model, optimiser.init(eqx.filter(model, eqx.is_inexact_array)), x, labels)


def test_a_step_of_complex_parameters() -> None:
    optimiser, w = optax.sgd(0.1), jnp.array([1 + 2j, 3 - 1j])
    step = pjp.displacement_step(lambda w: jnp.sum(jnp.abs(w) ** 2), optimiser)
    new, _, value = step(w, optimiser.init(w))
    assert new.dtype == w.dtype and jnp.sum(jnp.abs(new) ** 2) < value


def test_no_optimiser() -> None:
    model, x, labels = network_and_batch()
    with pytest.raises(pjp.ArgumentError, match="optimiser: expected an optax transformation, given 3"):
        pjp.displacement_step(loss, 3)  # type: ignore[arg-type]


def test_jit_eager_value_and_dtype() -> None:
    model, x, labels = network_and_batch()
    model = jax.tree.map(lambda leaf: leaf.astype("float32") if eqx.is_array(leaf) else leaf, model)
    x = x.astype("float32")
    eager = pjp.displacement(loss)(model, x, labels)
    jitted = eqx.filter_jit(pjp.displacement(loss))(model, x, labels)
    chex.assert_trees_all_close(eager, jitted, rtol=1e-5, atol=1e-7)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(eager)} == {"float32"}
    value, direction = pjp.value_and_displacement(lambda *args: jnp.mean(loss(*args)))(model, x, labels)
    np.testing.assert_allclose(value, jnp.mean(loss(model, x, labels)), rtol=1e-6)
    chex.assert_trees_all_close(direction, eager, rtol=1e-5, atol=1e-7)


def unrolled(
    body: Callable[..., Any], start: Any, xs: Any, length: int | None = None, reverse: bool = False
) -> tuple[Any, Any]:
    """`jax.lax.scan` without a scan."""
    count = len(jax.tree.leaves(xs)[0]) if length is None else length
    state, stack = start, [None] * count
    for i in range(count)[:: -1 if reverse else 1]:
        state, stack[i] = body(state, jax.tree.map(lambda x, i=i: x[i], xs))
    return state, jax.tree.map(lambda *ys: jnp.stack(ys), *stack)


def states(scan: Any, w: Any, x: Array) -> Array:
    """A step whose results at every position are used, and its last state, too."""
    cell = lambda h, x: (h := jnp.tanh(w["a"] @ h + w["b"] @ x + w["c"]), h)  # noqa: E731
    last, ys = scan(cell, jnp.zeros(3), x)
    return jnp.concatenate([ys, (w["a"] @ last)[None]])


def backwards(scan: Any, w: Any, x: Array) -> Array:
    """A trained start, two carries of which one only counts, and the state before each step as a result."""

    def cell(carry: Any, x: Array) -> Any:
        h, n = carry
        return (jax.nn.silu(w["a"] @ h) * (w["b"] @ x) + 1 / (n + 1), n + 1), h

    (last, n), ys = scan(cell, (jnp.tanh(w["c"]), jnp.zeros(())), x, reverse=True)
    return jnp.concatenate([ys, n * last[None]])


def nested(scan: Any, w: Any, x: Array) -> Array:
    """A loop within a loop, which changes the carry of both."""

    def outer(h: Array, x: Array) -> Any:
        h, ys = scan(lambda h, b: (jax.nn.relu(w["a"] @ h + b * x[:3]), h.sum()), h, w["b"])
        return h + w["c"], ys

    last, ys = scan(outer, jnp.ones(3), x)
    return jnp.concatenate([last[None], jnp.pad(ys[:2], ((0, 0), (0, 3 - ys.shape[1])))])


def layers(scan: Any, w: Any, x: Array) -> Array:
    """The weights of a stack of layers as what is different in each iteration."""
    stack = jnp.stack([w["a"], w["a"] @ w["a"], w["a"].T])
    return jax.vmap(lambda x: scan(lambda h, a: (jax.nn.relu(a @ h + w["c"]), None), x[:3], stack)[0])(x)


def one_step(scan: Any, w: Any, x: Array) -> Array:
    """A loop of one iteration, after one that carries nothing."""
    _, ys = scan(lambda _, x: (None, jnp.tanh(w["b"] @ x)), None, x[:1])
    return scan(lambda h, y: (jnp.tanh(w["a"] @ h * y), None), jnp.ones(3), ys)[0][None]


@pytest.mark.parametrize("model", [states, backwards, nested, layers, one_step], ids=lambda f: f.__name__)
@pytest.mark.filterwarnings("ignore::pjax_prim.UnusedParameterWarning")
def test_a_loop_is_the_loop_unrolled(model: Callable[..., Array]) -> None:
    """But for the first iteration of the unrolled one, which starts from a constant that does not move."""
    keys = jax.random.split(KEY, 5)
    w = {
        "a": jax.random.normal(keys[0], (3, 3)), "b": jax.random.normal(keys[1], (3, 4)),
        "c": jax.random.normal(keys[2], (3,)),
    }  # fmt: skip
    w = w | {"b": w["b"][:2, :3]} if model is nested else w
    x = jax.random.normal(keys[3], (4, 4))
    target = jax.random.normal(keys[4], model(jax.lax.scan, w, x).shape)

    def displacement_of(scan: Any) -> Any:
        direct = pjp.displacement(lambda w: pjp.squared_error(model(scan, w, x), target), weight=1e9)
        return jax.jit(direct)(w)

    chex.assert_trees_all_close(displacement_of(jax.lax.scan), displacement_of(unrolled), rtol=1e-6)
    chex.assert_trees_all_close(
        pjp.gap(lambda w: pjp.squared_error(model(jax.lax.scan, w, x), target, lam=0.5))(w),
        jnp.linalg.norm(model(unrolled, w, x) - target) / 3,
    )


def far_back(w: Array, x: Array, target: Array) -> Array:
    """A product of the same number over and over: each sweep reaches one iteration further back."""
    last, _ = jax.lax.scan(lambda h, x: (jax.nn.relu(w[0] * h + w[1] * x), None), jnp.zeros(()), x)
    return pjp.squared_error(last[None], target)


@pytest.mark.parametrize("lam", [None, 1e-4])
def test_credit_through_a_loop(lam: float | None) -> None:
    """The only input is three iterations back."""
    arguments = jnp.array([0.9, 1.0]), jnp.array([1.0, 0, 0, 0]), jnp.array([2.0])
    gradient = jax.grad(far_back)(*arguments)
    assert cosine(jax.jit(pjp.displacement(far_back, lam=lam))(*arguments), gradient) > 0.95


def test_losses_in_a_loop() -> None:
    """Those of each iteration may be taken inside, and carried."""
    w, x = jnp.array([0.9, 1.0]), jnp.array([1.0, 0.5, -0.3, 0.2])

    def each(w: Array) -> Array:
        def body(h: Array, x: Array) -> tuple[Array, Array]:
            h = jnp.tanh(w[0] * h + w[1] * x)
            return h, pjp.squared_error(w[0] * h[None], jnp.array([2.0]))

        return jax.lax.scan(body, jnp.zeros(()), x)[1]

    def after(w: Array) -> Array:
        body = lambda h, x: (h := jnp.tanh(w[0] * h + w[1] * x), h)  # noqa: E731
        return pjp.squared_error(
            w[0] * jax.lax.scan(body, jnp.zeros(()), x)[1][:, None], 2 * jnp.ones((4, 1))
        )

    chex.assert_trees_all_close(pjp.displacement(each)(w), pjp.displacement(after)(w), rtol=1e-9)

    def carried(w: Array) -> Array:
        def body(carry: Any, x: Array) -> Any:
            h = jnp.tanh(w[0] * carry[0] + w[1] * x)
            return (h, carry[1] + pjp.squared_error(h[None], jnp.array([2.0]))), None

        return jax.lax.scan(body, (jnp.zeros(()), jnp.zeros(())), x)[0][1]

    chex.assert_trees_all_close(pjp.displacement(carried)(w), jax.grad(carried)(w), rtol=1e-9)


def test_adam_trains_with_it() -> None:
    digits = load("digits")
    model = eqx.nn.MLP(64, 10, 32, 1, key=KEY)
    optimiser = optax.adam(1e-2)
    state = optimiser.init(eqx.filter(model, eqx.is_inexact_array))
    direct = pjp.value_and_displacement(loss)

    @eqx.filter_jit
    def step(model: Any, state: Any, x: Array, labels: Array) -> Any:
        value, direction = direct(model, x, labels)
        updates, state = optimiser.update(direction, state)
        return eqx.apply_updates(model, updates), state, jnp.mean(value)

    for number in range(60):
        model, state, value = step(model, state, *batch(digits, 128, seed=0, step=number))
    assert float(value) < 0.3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lam": jnp.ones(3)}, "lam: expected a number, given an array of shape (3,)"),
        ({"weight": np.ones((2, 1))}, "weight: expected a number, given an array of shape (2, 1)"),
        ({"lam": 0.0}, "lam: expected a finite number above zero, given 0.0"),
        ({"lam": float("nan")}, "lam: expected a finite number above zero, given nan"),
        ({"weight": -1}, "weight: expected a finite number above zero, given -1"),
        ({"weight": True}, "weight: expected a finite number above zero, given True"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(pjp.ArgumentError, match=re.escape(message)):
        pjp.displacement(loss, **settings)


def test_wrong_functions() -> None:
    w = jnp.ones(3)
    with pytest.raises(pjp.GraphError, match="depends on no parameter"):
        pjp.displacement(lambda w, x: jnp.sum(x))(w, w)
    with pytest.raises(pjp.GraphError, match="floating-point numbers, given dtype int"):
        pjp.displacement(lambda w: jnp.argmax(w))(w)
    with pytest.raises(pjp.GraphError, match="floating-point numbers, given dtype bool"):
        pjp.displacement(lambda w: (w > 0).any())(w)
    with pytest.raises(pjp.ArgumentError, match="expected it to return a number or an array, given None"):
        pjp.displacement(lambda w: None)(w)
    with pytest.raises(pjp.ArgumentError, match="a pair of value and auxiliary output with has_aux=True"):
        pjp.displacement(lambda w: w.sum(), has_aux=True)(w)
    with pytest.raises(pjp.GraphError, match="fn: a shape, an index into Python, or a branch"):
        pjp.displacement(lambda w: w.sum() if w[0] > 0 else w.sum())(w)
    with pytest.raises(pjp.ArgumentError, match="fn: expected a function"):
        pjp.displacement(3)(jnp.ones(3))  # type: ignore[arg-type]
