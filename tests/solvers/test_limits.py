"""What `solve` is given at its limits: dtypes, empty axes, starts of their own, derivatives."""

import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import pjax_prim as pjp

from .problems import SMALL, normal

X, TARGET = normal(0, 4, 3), normal(1, 4, 2)


def product(params: Any, x: Array, target: Array) -> Array:
    return pjp.squared_error(x @ params["layer"]["w"], target)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((3, 2), ">f4"), "expected the byte order of this machine, given dtype >f4 (shape (3, 2))"),
        (np.ma.masked_array(np.ones((3, 2)), mask=np.eye(3, 2)), "expected an array without a mask"),
        (
            jnp.ones((3, 2), jnp.float8_e4m3fn),
            "expected a bfloat16, float16, float32 or float64 array, given",
        ),
        (jnp.ones((3, 2), complex), "expected a bfloat16, float16, float32 or float64 array, given"),
        (jnp.ones((3, 2), jnp.int8), "expected a floating-point array, given dtype int8"),
        (np.ones((3, 2), np.int64), "expected a floating-point array, given dtype int64"),
    ],
    ids=["big-endian", "masked", "float8", "complex", "int8", "int64"],
)
def test_dtypes_of_parameters(array: Any, message: str) -> None:
    params = {"layer": {"w": array}, "b": jnp.ones(2)}
    with pytest.raises(pjp.ArgumentError, match=re.escape(f"params['layer']['w']: {message}")):
        pjp.solve(product, params, X, TARGET, solver=pjp.AlternatingProjections(), max_steps=1)


@pytest.mark.parametrize("run", ["solve", "displacement"])
@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((4, 3), ">f4"), "expected the byte order of this machine, given dtype >f4 (shape (4, 3))"),
        (np.ma.masked_array(np.ones((4, 3)), mask=np.eye(4, 3)), "expected an array without a mask"),
    ],
    ids=["big-endian", "masked"],
)
def test_arrays_that_are_none_of_jax_s(array: Any, message: str, run: str) -> None:
    def fn(w: Array, data: Any, target: Array) -> Array:
        return pjp.squared_error(data["x"] @ w, target)

    runs: dict[str, Any] = {
        "solve": lambda *x: pjp.solve(fn, *x, solver=pjp.AlternatingProjections(), max_steps=1),
        "displacement": pjp.displacement(fn),
    }
    with pytest.raises(pjp.ArgumentError, match=re.escape(f"args[0]['x']: {message}")):
        runs[run](jnp.ones((3, 2)), {"x": array}, TARGET)


def test_complex_parameters_of_a_module() -> None:
    class Model(eqx.Module):
        poles: Array
        w: Array

    model = Model(jnp.ones(3, complex), jnp.ones((3, 2)))
    with pytest.raises(pjp.ArgumentError, match=r"params\.poles: .* given dtype complex128"):
        pjp.solve(
            lambda m, x, t: pjp.squared_error(x @ m.w, t), model, X, TARGET,
            solver=pjp.AlternatingProjections(), max_steps=1,
        )  # fmt: skip


@pytest.mark.parametrize(
    "solver",
    [
        pjp.AlternatingProjections(),
        pjp.AlternatingProjections(form="expanded"),
        pjp.DouglasRachford(),
        pjp.ExtrapolatedProjections(),
        pjp.JointProjections(),
    ],
    ids=["compressed", "expanded", "halves", "consensus", "joint"],
)
def test_a_product_that_contracts_an_empty_axis(solver: pjp.AbstractSolver) -> None:
    def fn(params: Any, target: Array) -> Array:
        return pjp.squared_error(params["a"] @ params["b"] + params["c"], target)

    params = {"a": jnp.ones((4, 0)), "b": jnp.ones((0, 2)), "c": jnp.zeros(2)}
    solution = pjp.solve(fn, params, jnp.ones((4, 2)), solver=solver, max_steps=50)
    np.testing.assert_allclose(solution.params["c"], 1, atol=1e-4)


def test_threshold_neurons_of_an_empty_batch() -> None:
    def fn(params: Any, x: Array, labels: Array) -> Array:
        return pjp.equality(jax.vmap(lambda x: pjp.threshold_dot(params["w"], x))(x), labels)

    params = {"w": jnp.ones((2, 3))}
    solution = pjp.solve(
        fn, params, jnp.ones((0, 3)), jnp.ones((0, 2)), solver=pjp.AlternatingProjections(), max_steps=2
    )
    np.testing.assert_array_equal(solution.params["w"], params["w"])


class Shuffled(eqx.Module):
    w: Array
    order: Array
    depth: int

    def __call__(self, x: Array) -> Array:
        return x[self.order] @ self.w


def loss(model: Shuffled, x: Array, target: Array) -> Array:
    return pjp.equality(jax.vmap(model)(x), target)


def test_each_start_has_its_own_arrays_that_are_not_trained() -> None:
    def make(key: Array) -> Shuffled:
        first, second = jax.random.split(key)
        return Shuffled(jax.random.normal(first, (3, 2)), jax.random.permutation(second, 3), 1)

    settings: dict[str, Any] = {"solver": pjp.DouglasRachford(), "max_steps": np.int64(5), "tol": 1e-3}
    found = pjp.solve_starts(loss, make, X, TARGET, key=jax.random.key(0), starts=4, lanes=2, **settings)
    for start, key in enumerate(jax.random.split(jax.random.key(0), 4)):
        model = make(key)
        np.testing.assert_array_equal(found.params.order[start], model.order)
        alone = pjp.solve(loss, model, X, TARGET, **settings).params
        np.testing.assert_allclose(found.params.w[start], alone.w, rtol=1e-10)


def test_starts_that_differ_in_what_is_no_array() -> None:
    depth = iter(range(9))

    def make(key: Array) -> Shuffled:
        return Shuffled(jnp.ones((3, 2)), jnp.arange(3), next(depth))

    with pytest.raises(pjp.ArgumentError, match=r"make_params: .* given 0 and 1 for params\.depth"):
        pjp.solve_starts(
            loss, make, X, TARGET, key=jax.random.key(0), starts=2, solver=pjp.DouglasRachford(), max_steps=1
        )


@pytest.mark.parametrize(
    "restriction",
    [
        pjp.restrictions.FixedNorm(),
        pjp.restrictions.Bounds(-1.0, 1.0),
        pjp.restrictions.Sign(),
        pjp.restrictions.Sparse(1),
        pjp.restrictions.Levels((-1.0, 1.0)),
    ],
    ids=lambda x: type(x).__name__,
)
def test_restrictions_keep_nan(restriction: Any) -> None:
    moved = restriction.project(jnp.array([[1.0, np.nan, 2.0], [0.5, 0.25, -2.0], [0.0, 0.0, 0.0]]))
    assert np.isnan(moved[0, 1]) and np.isfinite(moved[1:]).all()


def test_derivatives_are_refused_in_a_sentence() -> None:
    params, *args = SMALL.arguments

    def total(params: Any) -> Array:
        return jnp.sum(
            pjp.solve(SMALL.fn, params, *args, solver=pjp.DouglasRachford(), max_steps=2).params["w"]
        )

    message = r"pjp\.solve cannot be differentiated: .*stop_gradient"
    with pytest.raises(pjp.ArgumentError, match=message):
        jax.grad(total)(params)
    with pytest.raises(pjp.ArgumentError, match=message):
        jax.jvp(total, (params,), (jax.tree.map(jnp.ones_like, params),))
    assert not np.any(jax.grad(lambda p: total(jax.lax.stop_gradient(p)))(params)["w"])
