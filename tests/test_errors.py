"""Bad input: each error comes before any compilation and says what was given and what is allowed."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import io_callback
from jaxtyping import Array

import pjax_prim as pjp

X = jnp.linspace(-1, 1, 12).reshape(3, 4)
PARAMS = {"w": jnp.ones((4, 2))}
AS_WEIGHT = jax.ShapeDtypeStruct((4, 2), PARAMS["w"].dtype)
HOT = jnp.eye(2)[jnp.array([0, 1, 1])]


def network(params: Any, x: Array, labels: Array) -> Array:
    return pjp.cross_entropy(x @ params["w"], labels)


def solve(fn: Callable[..., Any] = network, params: Any = PARAMS, *args: Any, **options: Any) -> pjp.Solution:
    defaults = {"solver": pjp.AlternatingProjections(), "max_steps": 1}
    return pjp.solve(fn, params, *(args or (X, HOT)), **defaults | options)


@pytest.fixture
def may_compile() -> None:
    """For tests that also solve something."""


@pytest.fixture(autouse=True)
def nothing_is_compiled(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """No other test of this file may reach the compiled loop."""
    if "may_compile" in request.fixturenames:
        return

    def fail(*args: Any) -> Any:
        raise AssertionError("the solve was compiled before its arguments were checked")

    monkeypatch.setattr("pjax_prim.solving._run", fail)


BAD_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"max_steps": -1}, "max_steps: expected an integer of at least 0, given -1"),
    ({"max_steps": 1.5}, "max_steps: expected an integer of at least 0, given 1.5"),
    ({"max_steps": True}, "max_steps: expected an integer of at least 0, given True"),
    ({"max_steps": None}, "max_steps: .* given None"),
    ({"tol": -1e-3}, "tol: expected a finite number of at least 0 or None, given -0.001"),
    ({"tol": math.nan}, "tol: .* given nan"),
    ({"tol": math.inf}, "tol: .* given inf"),
    ({"tol": "small"}, "tol: .* given 'small'"),
    ({"tol": np.ones(2)}, r"tol: expected a number, given an array of shape \(2,\); jax.vmap"),
    ({"placement": 3}, "placement: expected that of a pjax_prim.sharding.Plan, given 3"),
    ({"readout": "mean"}, "readout: expected 'shadow' or 'governing', given 'mean'"),
    ({"solver": "ap"}, r"solver: expected a solver such as .*, given 'ap'"),
    ({"solver": pjp.AlternatingProjections}, "solver: expected a solver such as"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS, ids=lambda x: str(x)[:30])
def test_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(pjp.ArgumentError, match=message):
        solve(**options)


@pytest.mark.parametrize("value", [0, -0.5, 1.01, math.nan, True, "half", None])
def test_relaxation(value: Any) -> None:
    with pytest.raises(pjp.ArgumentError, match="relaxation: expected a number above 0 and at most 1, given"):
        pjp.DouglasRachford(relaxation=value)


@pytest.mark.parametrize("value", [0, -1.0, 2.5, math.inf, False, "one"])
def test_beta(value: Any) -> None:
    with pytest.raises(pjp.ArgumentError, match="beta: expected a number above 0 and at most 2, given"):
        pjp.DifferenceMap(beta=value)


@pytest.mark.parametrize(
    "kind",
    [pjp.DouglasRachford, pjp.DifferenceMap, pjp.AlternatingReflections, pjp.CyclicDouglasRachford],
)
def test_compressed_form_where_there_is_none(kind: type[Any]) -> None:
    message = rf"form: {kind.__name__} runs in the form\(s\) 'expanded', given 'compressed'"
    with pytest.raises(pjp.ArgumentError, match=message):
        kind(form="compressed")


@pytest.mark.parametrize("kind", [pjp.AlternatingProjections, pjp.CyclicProjections])
def test_unknown_form(kind: type[Any]) -> None:
    with pytest.raises(pjp.ArgumentError, match="'compressed', 'expanded', given 'dense'"):
        kind(form="dense")


def weight_through(change: Callable[[Array], Array]) -> Callable[..., Array]:
    return lambda params, x, labels: network({"w": change(params["w"])}, x, labels)


BAD_FUNCTIONS: dict[str, tuple[Callable[..., Any], str]] = {
    "no parameter": (
        lambda p, x, y: jnp.sum(x),
        "fn: what it returns depends on no parameter: no loss depends",
    ),
    "loss of data": (lambda p, x, y: pjp.cross_entropy(x[:, :2], y), "no loss depends on the parameters"),
    "product with a loss": (
        lambda p, x, y: jnp.mean(network(p, x, y)) * jnp.sum(p["w"]),
        "'mul' after a loss is not linear in it, so the loss has no weight",
    ),
    "loss of a loss": (
        lambda p, x, y: network({"w": p["w"] * jnp.mean(network(p, x, y))}, x, y),
        "a loss of a loss has no projection; return the inner loss",
    ),
    "negative loss": (lambda p, x, y: -jnp.mean(network(p, x, y)), "a loss has a weight below zero"),
    "side effect": (
        lambda p, x, y: (jax.debug.print("{}", x), network(p, x, y))[1],
        "the function has side effects .*remove callbacks and debug prints",
    ),
    "side effect in a loop": (
        weight_through(lambda w: lax.fori_loop(0, 2, lambda i, w: (jax.debug.print("{}", w), w)[1], w)),
        "the function has side effects .*remove callbacks and debug prints",
    ),
    "ordered callback": (
        weight_through(lambda w: io_callback(lambda w: w, AS_WEIGHT, w, ordered=True)),
        "the function has side effects .*remove callbacks and debug prints",
    ),
    "host callback": (
        weight_through(lambda w: jax.pure_callback(lambda w: w, AS_WEIGHT, w)),
        "test_errors.py.* primitive 'pure_callback'.* The host computes it.*: write it in JAX, or",
    ),
    "boolean index": (
        weight_through(lambda w: w[w > 0].reshape(4, 2)),
        "fn: a shape, .* needs the value of a traced array.* use jnp.where, masks and fixed shapes",
    ),
    "shape from a value": (
        weight_through(lambda w: jnp.ones((int(w[0, 0]), 2)) @ w),
        "fn: a shape, .* needs the value of a traced array",
    ),
    "branch on a value": (
        weight_through(lambda w: w if w[0, 0] > 0 else -w),
        "fn: a shape, .* or a branch needs the value of a traced array",
    ),
    "numpy": (
        weight_through(lambda w: jnp.asarray(np.tanh(np.asarray(w)))),
        "fn: a shape, .* needs the value of a traced array",
    ),
    "nothing": (lambda p, x, y: None, "fn: returned no array but None; return the losses"),
    "no array": (lambda p, x, y: {"loss": "network"}, "fn: returned no array but {'loss': 'network'}; "),
    "frozen": (weight_through(lax.stop_gradient), "fn: every parameter is behind jax.lax.stop_gradient"),
    "while": (
        weight_through(lambda w: lax.while_loop(lambda w: w[0, 0] < 2, lambda w: w + 1, w)),
        "primitive 'while'.* use jax.lax.scan",
    ),
    "fori_loop": (
        weight_through(lambda w: lax.fori_loop(0, HOT.sum().astype(int), lambda i, w: w + i, w)),
        "primitive 'while'.* jax.lax.fori_loop with Python integers as bounds",
    ),
}


@pytest.mark.parametrize("name", BAD_FUNCTIONS)
def test_functions(name: str) -> None:
    fn, message = BAD_FUNCTIONS[name]
    runs = [solve, lambda fn: pjp.constraint_graph(fn)(PARAMS, X, HOT)]
    for run in runs[: 1 if name == "negative loss" else 2]:  # a graph has no numbers
        with pytest.raises(pjp.GraphError, match=message):
            run(fn)


def test_a_wrapper_of_a_class() -> None:
    with pytest.raises(pjp.ArgumentError, match=r"solver: expected a solver such as .*, given <class"):
        pjp.Anderson(pjp.AlternatingProjections)  # type: ignore[arg-type]


def test_shapes_alone() -> None:
    runs = [
        solve,
        *(lambda fn, *x, f=f: f(fn)(*x) for f in (pjp.displacement, pjp.value_and_displacement, pjp.gap)),
    ]
    for params, x, name in (
        ({"w": AS_WEIGHT}, X, r"params\['w'\]"),
        (PARAMS, jax.ShapeDtypeStruct((3, 4), X.dtype), r"args\[0\]"),
    ):
        for run in runs:
            with pytest.raises(
                pjp.ArgumentError, match=f"{name}: expected an array, given a jax.ShapeDtypeStruct"
            ):
                run(network, params, x, HOT)


@pytest.mark.parametrize("key", [None, 0, X])
def test_a_key_that_is_none(key: Any) -> None:
    with pytest.raises(pjp.ArgumentError, match=r"key: expected one of jax.random.key, given "):
        pjp.solve_starts(
            network, lambda key: PARAMS, X, HOT, key=key, starts=2, max_steps=1,
            solver=pjp.AlternatingProjections(),
        )  # fmt: skip


def test_function_that_is_none() -> None:
    with pytest.raises(pjp.ArgumentError, match="fn: expected a function of"):
        solve("network")


def unsupported(params: Any, x: Array, labels: Array) -> Array:
    h = x @ params["w"]
    h = lax.igamma_grad_a(h, jnp.ones_like(h))  # this line is in the message
    return pjp.cross_entropy(h, labels)


def line_of(function: Callable[..., Any], text: str) -> int:
    import inspect

    lines, first = inspect.getsourcelines(function)
    return first + next(i for i, line in enumerate(lines) if text in line)


def in_a_scan(fn: Callable[..., Array]) -> Callable[..., Array]:
    def run(params: Any, x: Array, labels: Array) -> Array:
        return lax.scan(lambda total, _: (total, fn(params, x, labels)), 0.0, None, length=3)[1]

    return run


def with_custom_jvp(fn: Callable[..., Array]) -> Callable[..., Array]:
    custom = jax.custom_jvp(fn)
    custom.defjvp(lambda primals, tangents: (fn(*primals), tangents[0]))
    return custom


def with_custom_vjp(fn: Callable[..., Array]) -> Callable[..., Array]:
    custom = jax.custom_vjp(fn)
    custom.defvjp(lambda *args: (fn(*args), None), lambda residual, g: (None, None, None))
    return custom


def under_vmap(fn: Callable[..., Array]) -> Callable[..., Array]:
    return lambda params, x, labels: jax.vmap(lambda x, y: fn(params, x[None], y[None]))(x, labels)


WRAPPERS: dict[str, Callable[..., Any]] = {
    "plain": lambda f: f,
    "jit": jax.jit,
    "remat": jax.checkpoint,
    "eqx": eqx.filter_jit,
    "scan": in_a_scan,
    "scan of jit": lambda f: in_a_scan(jax.jit(f)),
    "custom_jvp": with_custom_jvp,
    "custom_vjp": with_custom_vjp,
    "vmap": under_vmap,
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
def test_missing_rule_names_primitive_line_and_remedy(wrap: Callable[..., Any]) -> None:
    with pytest.raises(pjp.MissingRuleError) as caught:
        solve(wrap(unsupported))
    message = str(caught.value)
    assert "primitive 'igamma_grad_a'" in message
    assert f"test_errors.py:{line_of(unsupported, 'this line')}" in message
    assert "pjp.register_projection(primitive, rule)" in message
    assert isinstance(caught.value, NotImplementedError)


def test_missing_rule_inside_jit_of_the_solve() -> None:
    @jax.jit
    def run(params: Any) -> Any:
        return solve(unsupported, params).params

    with pytest.raises(pjp.MissingRuleError, match="primitive 'igamma_grad_a'"):
        run(PARAMS)


def test_unused_parameters_are_named() -> None:
    params = {**PARAMS, "spare": jnp.ones(2), "more": [jnp.ones(3)]}
    with pytest.warns(pjp.UnusedParameterWarning, match=r"\['more'\]\[0\], \['spare'\] reach"):
        pjp.constraint_graph(network)(params, X, HOT)


BAD_PARAMETERS: list[tuple[Any, str]] = [
    (
        {"w": jnp.ones((4, 2), int)},
        r"params\['w'\]: expected a floating-point array, given dtype int64 \(shape \(4, 2\)\)",
    ),
    ({"w": PARAMS["w"], "mask": jnp.ones(2, bool)}, r"params\['mask'\]: .* given dtype bool"),
    ({"w": jnp.ones((4, 2), complex)}, r"params\['w'\]: .* given dtype complex128"),
    ({}, "params: no floating-point array in it, so there is nothing to train"),
    (None, "params: no floating-point array in it"),
    ({"w": "weights"}, "params: no floating-point array in it"),
]


@pytest.mark.parametrize(("params", "message"), BAD_PARAMETERS)
def test_parameters(params: Any, message: str) -> None:
    with pytest.raises(pjp.ArgumentError, match=message):
        solve(network, params)


WEIGHTS, ONE_HOT = (pjp.cross_entropy,), (pjp.margin_loss,)
BOTH = (*WEIGHTS, *ONE_HOT)


BAD_LABELS: dict[str, tuple[Any, Any, str]] = {
    "high": (BOTH, [0, 2, 1], r"labels.* expected .* at index \(1,\)"),
    "negative": (BOTH, [0, 1, -1], r"labels.* expected .* at index \(2,\)"),
    "two ones": (
        ONE_HOT,
        [[1.0, 0], [1, 1], [0, 1]],
        r"labels.* one-hot .* given \[1.0, 1.0\] at index \(1,",
    ),
    "no ones": (BOTH, [[1.0, 0], [0, 1], [0, 0]], r"labels.* one-hot .* given \[0.0, 0.0\] at index \(2,\)"),
    "halves": (ONE_HOT, [[1.0, 0], [0, 1], [0.5, 0.5]], r"labels.* one-hot .* given \[0.5, 0.5\]"),
    "a weight below zero": (WEIGHTS, [[1.0, 0], [0, 1], [1.5, -0.5]], r"labels.* not below zero .*1.5, -0.5"),
    "floats": (
        BOTH,
        [0.0, 1, 1],
        r"labels: expected an array of shape \(3, 2\), or integers of shape \(3,\)",
    ),
    "few": (BOTH, [0, 1], r"labels: expected an array of shape \(3, 2\), or integers of shape \(3,\)"),
}


@pytest.mark.parametrize(("losses", "labels", "message"), BAD_LABELS.values(), ids=BAD_LABELS.keys())
def test_labels(losses: tuple[Callable[..., Array], ...], labels: Any, message: str) -> None:
    labels = jnp.array(labels)

    def forms(loss: Callable[..., Array]) -> list[Callable[..., Array]]:
        return [
            lambda params, x, labels: loss(x @ params["w"], labels),
            lambda params, x, _: loss(x @ params["w"], labels),
            lambda params, x, labels: loss(x @ params["w"], labels[::-1][::-1]),
        ]

    for fn in (form for loss in losses for form in forms(loss)):
        with pytest.raises(pjp.ArgumentError, match=message):
            solve(fn, PARAMS, X, labels)


def state_of(solver: pjp.AbstractSolver, batch: int = 3, dtype: str = "float64") -> Any:
    params, x, labels = jax.tree.map(lambda a: a.astype(dtype), (PARAMS, X[:batch], HOT[:batch]))
    return pjp.solve(network, params, x, labels, solver=solver, max_steps=0).state


@pytest.mark.usefixtures("may_compile")
def test_states() -> None:
    ap, dr = pjp.AlternatingProjections(), pjp.DouglasRachford()
    good = state_of(ap)
    assert int(solve(state=good).stats["num_steps"]) == 1
    cases: list[tuple[Any, str]] = [
        (state_of(dr), r"state: expected the state of AlternatingProjections\(form='compressed'\)"),
        (state_of(ap, batch=2), r"state: at node 'linear_0' expected shape \(3, 2\) .* given shape \(2, 2\)"),
        (state_of(ap, dtype="float32"), "expected shape .* and dtype float64, given .* dtype float32"),
        ("state", "given another structure"),
        (good[:-1], "on a graph of 3 nodes, given another structure"),
    ]
    for state, message in cases:
        with pytest.raises(pjp.ArgumentError, match=message):
            solve(state=state)


@pytest.mark.usefixtures("may_compile")
def test_no_false_alarms() -> None:
    """What looks unusual but is right: NumPy arrays, a NumPy count of labels, integers in args."""
    labels = np.array([0, 1, 1])
    assert int(solve(network, {"w": np.ones((4, 2))}, np.asarray(X), labels).stats["num_steps"]) == 1
    names = np.array(["a", "b", "c"])
    assert int(solve(lambda p, x, y, names: network(p, x, y), PARAMS, X, HOT, names).stats["num_steps"]) == 1
