"""What all losses have in common: steps, masks, axes, and what they do in solvers and displacements."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array

import pjax_prim as pjp
from pjax_prim.rules import RuleContext, rule_of
from pjax_prim.rules.losses import Condition, Loss

K = jax.random.key
X, T = 3 * jax.random.normal(K(0), (6, 4)), jax.random.normal(K(1), (6, 4))
X = X.at[0, 0].set(-0.0)
CLASSES = jnp.array([0, 3, 1, 2, 2, 0])
P = jax.nn.softmax(T)
W = jax.random.normal(K(2), (4, 4))

BY_ROWS: dict[str, Callable[..., Array]] = {
    "cross_entropy": lambda x, **given: pjp.cross_entropy(x, CLASSES, **given),
    "cross_entropy of weights": lambda x, **given: pjp.cross_entropy(x, P, **given),
    "kl_divergence": lambda x, **given: pjp.kl_divergence(x, P, **given),
    "squared_error": lambda x, **given: pjp.squared_error(x, T, **given),
    "margin": lambda x, **given: pjp.margin_loss(x, CLASSES, **given),
}
BY_ELEMENTS: dict[str, Callable[..., Array]] = {
    "binary_cross_entropy": lambda x, **given: pjp.binary_cross_entropy(x, T > 0, **given),
    "absolute_error": lambda x, **given: pjp.absolute_error(x, T, **given),
    "huber": lambda x, **given: pjp.huber(x, T, 0.7, **given),
    "minimise": lambda x, **given: pjp.minimise(x, **given),
}
CONDITIONS: dict[str, Callable[..., Array]] = {
    "margin": BY_ROWS["margin"],
    "equality": lambda x, **given: pjp.equality(x, T, **given),
    "at_most": lambda x, **given: pjp.at_most(x, T, **given),
}
ALL = BY_ROWS | BY_ELEMENTS | CONDITIONS
WITH_STEPS = {name: loss for name, loss in (BY_ROWS | BY_ELEMENTS).items() if name not in CONDITIONS}


def loss_node(function: Callable[..., Array], x: Array = X) -> tuple[Loss, tuple[Array, ...]]:
    """The constraint of a loss, and its constants."""
    closed = jax.make_jaxpr(function)(x)
    values: dict[Any, Any] = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    values[closed.jaxpr.invars[0]] = x

    def read(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else values[atom]

    for equation in closed.eqns:
        operands = [read(atom) for atom in equation.invars]
        if (rule := rule_of(equation.primitive)) is not None and equation.primitive.name.startswith("pjax"):
            known = (False, *[True] * (len(operands) - 1))
            avals = tuple(y.aval for y in equation.invars), tuple(y.aval for y in equation.outvars)
            meaning = rule(RuleContext(equation.primitive, equation.params, *avals, known, ()))
            assert meaning.operands == (0,) and meaning.constants == tuple(range(1, len(operands)))
            constants = tuple(jnp.asarray(operands[i]) for i in meaning.constants)
            assert constants[-1].shape == equation.outvars[0].aval.shape
            return meaning.constraint, constants
        results = equation.primitive.bind(*operands, **equation.params)
        results = results if equation.primitive.multiple_results else [results]
        values.update(zip(equation.outvars, results, strict=True))
    raise AssertionError("no loss")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_steps_of_zero_and_nan(name: str, dtype: str) -> None:
    """An element with a step of zero keeps all of its bits, beside others that move; NaN gives NaN."""
    x = X.astype(dtype)
    constraint, (*targets, step) = loss_node(ALL[name], x)
    assert constraint.describe() == name.split(" ")[0] and constraint.kind == "loss"
    every_other = jnp.arange(6) % 2 == 0
    every_other = every_other.reshape(-1, *[1] * (step.ndim - 1))
    (whole,) = constraint.project((x,), None, (*targets, step))
    (part,) = constraint.project((x,), None, (*targets, jnp.where(every_other, step, 0)))
    assert part[1::2].tobytes() == x[1::2].tobytes() and part.dtype == dtype
    np.testing.assert_array_equal(part[::2], whole[::2])
    assert (part[::2] != x[::2]).any()
    (none,) = constraint.project((x,), None, (*targets, jnp.where(every_other, step, jnp.nan)))
    assert jnp.isnan(none[1::2]).all() and not jnp.isnan(none[::2]).any()


@pytest.mark.parametrize("name", CONDITIONS)
def test_any_positive_step_meets_a_condition(name: str) -> None:
    constraint, (*targets, step) = loss_node(CONDITIONS[name])
    assert isinstance(constraint, Condition)
    for size in (1e-20, 1.0, 1e20):
        (moved,) = constraint.project((X,), None, (*targets, size * step))
        np.testing.assert_allclose(CONDITIONS[name](moved), 0, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_pulls_are_gradients_of_small_steps(name: str) -> None:
    constraint, constants = loss_node(ALL[name])
    gradient = jax.grad(lambda x: jnp.sum(ALL[name](x)))(X)
    for lam in (1e-12, 1e-5):
        pulled = constraint.pull((X,), constants, lam) / -lam
        np.testing.assert_allclose(pulled, gradient, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", WITH_STEPS)
def test_pulls_are_proximal_steps(name: str) -> None:
    constraint, (*targets, step) = loss_node(WITH_STEPS[name])
    for lam in (0.3, 20.0):
        pulled = constraint.pull((X,), (*targets, step), lam)
        (moved,) = constraint.project((X,), None, (*targets, jnp.full_like(step, lam)))
        np.testing.assert_allclose(X + pulled, moved, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", WITH_STEPS)
def test_steps_of_each_element(name: str) -> None:
    """`lam` may be an array; it does not enter the value, and `jax.vmap` of it gives the same graph."""
    loss = WITH_STEPS[name]
    shape = loss(X).shape
    lam = jnp.linspace(0.0, 2, int(np.prod(shape))).reshape(shape)
    np.testing.assert_array_equal(loss(X, lam=lam), loss(X))
    constraint, (*targets, step) = loss_node(lambda x: loss(x, lam=lam))
    np.testing.assert_array_equal(step, lam)
    (moved,) = constraint.project((X,), None, (*targets, step))
    for row in range(len(X)):
        same = jnp.full_like(step, lam[row].ravel()[-1])
        (alone,) = constraint.project((X,), None, (*targets, same))
        np.testing.assert_allclose(moved[row][..., -1], alone[row][..., -1], rtol=1e-12, atol=1e-14)
    traced = jax.jit(lambda x, lam: loss(x, lam=lam))(X, lam)
    np.testing.assert_array_equal(traced, loss(X))


@pytest.mark.parametrize("name", [*BY_ROWS, "at_most"])
def test_masks(name: str) -> None:
    loss, some = ALL[name], jnp.array([True, True, False, True, False, True])
    if name == "at_most":
        some = some[:, None]
    found = loss(X, where=some)
    np.testing.assert_array_equal(found, jnp.where(some, loss(X), 0))
    np.testing.assert_array_equal(jax.jit(lambda x, some: loss(x, where=some))(X, some), found)
    _, constants = loss_node(lambda x: loss(x, where=some))
    expected = jnp.where(some, loss_node(loss)[1][-1], 0)
    np.testing.assert_array_equal(constants[-1], expected)


@pytest.mark.parametrize("masked", [[-1, 0, 1, 2, 3, 0], [17, 0, 1, 2, 3, 0]])
def test_labels_that_are_masked_may_be_anything(masked: list[int]) -> None:
    def fn(w: Array, labels: Array) -> Array:
        return jnp.mean(pjp.cross_entropy(T @ w, labels, where=labels == jnp.clip(labels, 0, 3)))

    labels = jnp.array(masked)
    value = fn(W, labels)
    expected = jnp.sum(optax.softmax_cross_entropy_with_integer_labels((T @ W)[1:], labels[1:])) / 6
    np.testing.assert_allclose(value, expected, rtol=1e-6)

    def without(w: Array, labels: Array) -> Array:
        return jnp.mean(pjp.cross_entropy(T @ w, labels, where=jnp.arange(6) > 0))

    solver = pjp.AlternatingProjections()
    found = pjp.solve(fn, W, labels, solver=solver, max_steps=3).params
    others = pjp.solve(without, W, labels.at[0].set(0), solver=solver, max_steps=3).params
    np.testing.assert_allclose(found, others, rtol=1e-12)
    assert not np.array_equal(found, W)


@pytest.mark.parametrize("name", ["cross_entropy", "kl_divergence", "squared_error", "margin_loss"])
def test_axes(name: str) -> None:
    loss = getattr(pjp, name)
    x, t = jnp.stack([X, 2 * X]), jax.nn.one_hot(jnp.stack([CLASSES, CLASSES]), 4)
    expected = loss(x, t)
    for axis in (0, 1, 2, -1, -3):
        moved = [jnp.moveaxis(y, -1, axis) for y in (x, t)]
        np.testing.assert_allclose(loss(*moved, axis=axis), expected, rtol=1e-12)
        classes = jnp.argmax(t, -1)
        np.testing.assert_allclose(loss(moved[0], classes, axis=axis), expected, rtol=1e-12)


IN_OTHER_SOLVES = (
    "cross_entropy",
    "cross_entropy of weights",
    "squared_error",
    "margin",
    "equality",
    "minimise",
)
"""What other tests solve; a number that is minimised has no least value here."""


@pytest.mark.parametrize("name", [name for name in ALL if name not in IN_OTHER_SOLVES])
def test_solvers_lower_the_loss(name: str) -> None:
    def fn(w: Array) -> Array:
        return ALL[name](X @ w)

    solution = pjp.solve(fn, W, solver=pjp.AlternatingProjections(), max_steps=100)
    assert jnp.mean(fn(solution.params)) < 0.7 * jnp.mean(fn(W))
    direction = pjp.displacement(lambda w: jnp.mean(fn(w)))(W)
    gradient = jax.grad(lambda w: jnp.mean(fn(w)))(W)
    assert jnp.vdot(direction, gradient) > 0


def test_soft_labels_in_a_solver() -> None:
    def fn(w: Array, p: Array) -> Array:
        return pjp.cross_entropy(X @ w, p)

    solution = pjp.solve(fn, W, P, solver=pjp.DouglasRachford(0.5), max_steps=50)
    assert jnp.mean(fn(solution.params, P)) < jnp.mean(fn(W, P))
    for p, given in ((-P, "given"), (P.at[2, 1].set(jnp.nan), r"at index \(2,\)")):
        with pytest.raises(pjp.ArgumentError, match=f"labels.* not below zero and not all zero, .*{given}"):
            pjp.solve(fn, W, p, solver=pjp.DouglasRachford(0.5), max_steps=1)


def test_classes_that_are_ruled_out() -> None:
    """Logits of minus infinity leave value and derivatives, both ways, as they are without the class."""

    def loss(logits: Array) -> Array:
        return pjp.cross_entropy(logits, jnp.array([1, 0])).sum()

    kept = jnp.array([[1.0, 2.0], [0.5, -0.3]])
    logits = jnp.concatenate([kept, jnp.full((2, 1), -jnp.inf)], -1)
    change = jnp.array([[0.3, -1.0], [2.0, 0.7]])
    wider = jnp.concatenate([change, jnp.zeros((2, 1))], -1)
    for found, expected in (
        (jax.jvp(loss, (logits,), (wider,)), jax.jvp(loss, (kept,), (change,))),
        (jax.grad(loss)(logits)[:, :2], jax.grad(loss)(kept)),
        (pjp.displacement(loss)(logits)[:, :2], pjp.displacement(loss)(kept)),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert not jax.grad(loss)(logits)[:, 2].any()


def test_extreme_binary_logits() -> None:
    x = jnp.array([-3e38, -1e4, -100, 0, 100, 1e4, 3e38], "float32")
    for y in (0.0, 0.25, 1.0):
        value, slope = jax.vmap(jax.value_and_grad(pjp.binary_cross_entropy), (0, None))(x, y)
        assert jnp.isfinite(value).all() and jnp.isfinite(slope).all()
        np.testing.assert_allclose(slope, jax.nn.sigmoid(x) - y, rtol=1e-6)


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "labels": (
        lambda: pjp.binary_cross_entropy(X, X),
        r"labels: expected numbers from 0 to 1, given .* at index",
    ),
    "nan": (lambda: pjp.binary_cross_entropy(X, jnp.nan), "labels: expected numbers from 0 to 1, given nan"),
    "shape": (
        lambda: pjp.absolute_error(X, jnp.zeros(3)),
        r"target: .* broadcasts to \(6, 4\), given \(3,\)",
    ),
    "wider": (
        lambda: pjp.huber(X[0], X),
        r"target: expected a shape that broadcasts to \(4,\), given \(6, 4\)",
    ),
    "delta": (lambda: pjp.huber(X, X, 0.0), "delta: expected a finite number above zero, given 0.0"),
    "deltas": (lambda: pjp.huber(X, X, -(T[0] ** 2)), "delta: expected finite numbers above zero, given"),
    "lam": (lambda: pjp.minimise(X, "big"), "lam: expected a finite number above zero, given 'big'"),
    "lams": (
        lambda: pjp.minimise(X, -jnp.ones(4)),
        r"lam: expected finite numbers, not below zero, given -1.0",
    ),
    "lam's shape": (
        lambda: pjp.squared_error(X, T, jnp.ones(4)),
        r"lam: .* broadcasts to \(6,\), given \(4,\)",
    ),
    "lam's dtype": (
        lambda: pjp.minimise(X, X > 0),
        "lam: expected an array of real numbers, given dtype bool",
    ),
    "axis": (
        lambda: pjp.cross_entropy(X, CLASSES, axis=2),
        "axis: expected an integer from -2 to 1, given 2",
    ),
    "where": (
        lambda: pjp.margin_loss(X, CLASSES, where=CLASSES),
        "where: expected an array of Booleans, given",
    ),
    "where's shape": (lambda: pjp.squared_error(X, T, where=X > 0), r"where: .* broadcasts to \(6,\), given"),
    "probabilities": (
        lambda: pjp.kl_divergence(X, -P),
        "probabilities: expected one-hot vectors, or weights",
    ),
    "integers": (lambda: pjp.minimise(CLASSES), "y: expected a floating-point array"),
    "bound": (lambda: pjp.at_most(X, 1j), "bound: expected real numbers, given dtype complex"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD.keys())
def test_errors(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(pjp.ArgumentError, match=message):
        call()


def test_steps_and_targets_are_data() -> None:
    for fn, message in (
        (lambda w: pjp.absolute_error(X @ w, T, jnp.exp(w[0, 0])), "its step depends on a parameter"),
        (lambda w: pjp.absolute_error(X @ w, X @ w), "the labels depend on a parameter"),
    ):
        with pytest.raises(pjp.GraphError, match=message):
            pjp.constraint_graph(fn)(W)
