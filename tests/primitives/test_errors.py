"""Wrong arguments are named, with what was given and what is allowed."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pjax_prim as pjp
from pjax_prim.errors import ArgumentError
from pjax_prim.primitives._losses import check_labels

v, w, s = jnp.zeros(3), jnp.zeros(4), jnp.zeros(())
one_hot = jnp.eye(3)

ERRORS: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: pjp.project_sum(s, s),
        "a: expected a vector, given shape (); one query at a time, use jax.vmap",
    ),
    (lambda: pjp.project_sum(v, v), "z: expected a scalar, given shape (3,)"),
    (lambda: pjp.project_sum(jnp.zeros(0), s), "a: expected at least one element, given shape (0,)"),
    (
        lambda: pjp.project_sum(jnp.arange(3), s),
        "a: expected a floating-point array (bfloat16, float16, float32 or float64), given",
    ),
    (lambda: pjp.project_sum([1.0, 2.0], s), "a: expected an array, given list"),
    (lambda: pjp.project_sum(v * 1j, s), "given dtype complex128"),
    (lambda: pjp.project_mean(jnp.zeros((2, 3)), s), "a: expected a vector, given shape (2, 3)"),
    (lambda: pjp.project_max(jnp.zeros(0), s), "a: expected at least one element"),
    (lambda: pjp.project_max(v, v), "z: expected a scalar"),
    (lambda: pjp.project_identity(v, w), "a and z: expected equal shapes, given a (3,), z (4,)"),
    (lambda: pjp.project_identity(v, True), "z: expected a floating-point array"),
    (
        lambda: pjp.project_affine(v, w, s),
        "a and coefficients: expected equal shapes, given a (3,), coefficients (4,)",
    ),
    (lambda: pjp.project_affine(v, v, s, v), "offset: expected a scalar"),
    (lambda: pjp.project_scale(v, w, v), "a and factor and offset: expected equal shapes"),
    (
        lambda: pjp.project_combination((v, v), v, (1.0,)),
        "expected 2 finite numbers, one for each input, given (1.0,)",
    ),
    (lambda: pjp.project_combination((v,), v, (float("nan"),)), "coefficients: expected 1 finite numbers"),
    (lambda: pjp.project_combination((v, w), v), "inputs[0] and inputs[1] and z: expected equal shapes"),
    (lambda: pjp.project_combination((), v), "inputs: expected a tuple of at least one array, given none"),
    (lambda: pjp.project_sum_relu(v, v), "inputs: expected a tuple of at least one array, given ArrayImpl"),
    (lambda: pjp.project_sum_relu((v, w), v), "inputs[1] (4,)"),
    (lambda: pjp.project_dot(v, w, s), "a and b: expected equal shapes, given a (3,), b (4,)"),
    (lambda: pjp.project_product(v, v, s), "a and b and z: expected equal shapes"),
    (lambda: pjp.project_quantize(v, v, levels=1), "levels: expected an integer of at least 2, given 1"),
    (lambda: pjp.project_quantize(v, v, levels=2.5), "levels: expected an integer of at least 2, given 2.5"),
    (
        lambda: pjp.project_quantize(v, v, levels=True),
        "levels: expected an integer of at least 2, given True",
    ),
    (lambda: pjp.project_quantize(v, v, scale=0.0), "scale: expected a finite number above zero, given 0.0"),
    (lambda: pjp.quantize(v, 3, float("inf")), "scale: expected a finite number above zero, given inf"),
    (lambda: pjp.project_sign(v, w), "a and z: expected equal shapes"),
    (lambda: pjp.project_cumsum(v, w), "a and z: expected equal shapes"),
    (lambda: pjp.project_cumsum(s, s), "a: expected a vector"),
    (lambda: pjp.project_round(v, v, "fix"), "one of 'round', 'floor', 'ceil', given 'fix'"),
    (lambda: pjp.project_select(v, v, v, v, w), "expected equal shapes, given x (3,), y (3,)"),
    (lambda: pjp.project_scalar(v, w, "tanh"), "a and z: expected equal shapes"),
    (lambda: pjp.project_scalar(v, v, "sinc"), "function: expected one of tanh, logistic"),
    (lambda: pjp.project_scalar(v, v, "tanh", (1.0,)), "parameters: expected 0 number(s) for 'tanh', given"),
    (lambda: pjp.project_scalar(v, v, "integer_pow", (0.5,)), "expected an integer other than 0 and 1"),
    (lambda: pjp.project_scalar(v, v, "pow", (1.0,)), "expected a finite power other than 0 and 1"),
    (lambda: pjp.project_scalar(v, v, "clamp", (2.0, 1.0)), "expected low <= high, given (2.0, 1.0)"),
    (lambda: pjp.project_scalar(v, v, "elu", (1.0, -1.0, 1.0)), "expected numbers above zero, given"),
    (lambda: pjp.project_margin(s, 0), "logits: expected a vector"),
    (
        lambda: pjp.project_margin(v, w),
        "shape (3,), or integers of shape (), given shape (4,) and dtype float64",
    ),
    (lambda: pjp.project_margin(v, 3), "labels: expected integers from 0 to 2, given 3"),
    (lambda: pjp.prox_cross_entropy(v, -1), "labels: expected integers from 0 to 2, given -1"),
    (lambda: pjp.prox_cross_entropy(v, 0, lam=-1.0), "lam: expected a finite number above zero, given -1.0"),
    (lambda: pjp.prox_cross_entropy(jnp.zeros(0), jnp.zeros(0)), "logits: expected at least one element"),
    (lambda: pjp.prox_squared_error(v, w), "x and target: expected equal shapes"),
    (lambda: pjp.prox_squared_error(v, v, lam=0), "lam: expected a finite number above zero, given 0"),
    (lambda: pjp.project_equality(v, w), "x and target: expected equal shapes"),
    (lambda: pjp.sum_relu(), "xs: expected a tuple of at least one array, given none"),
    (lambda: pjp.sum_relu(v, w), "xs: expected shapes that broadcast, given (3,), (4,)"),
    (lambda: pjp.sum_relu(v, jnp.arange(3)), "xs[1]: expected a floating-point array"),
    (
        lambda: pjp.margin_loss(one_hot, 0.5 * one_hot),
        "a single 1 among zeros, given [0.5, 0.0, 0.0] at index (0,)",
    ),
    (lambda: pjp.margin_loss(s, 0), "logits: expected at least 1 axis, given shape ()"),
    (
        lambda: pjp.cross_entropy(one_hot, jnp.array([0, 1, 3])),
        "labels: expected integers from 0 to 2, given 3 at index (2,)",
    ),
    (
        lambda: pjp.cross_entropy(one_hot, jnp.array([0.0, 1.0, 2.0])),
        "labels: expected an array of shape (3, 3), or",
    ),
    (lambda: pjp.margin_loss(one_hot, jnp.ones((3, 3))), "labels: expected one-hot vectors, a single 1"),
    (lambda: pjp.cross_entropy(one_hot, one_hot, lam=0.0), "lam: expected a finite number above zero"),
    (lambda: pjp.squared_error(one_hot, jnp.zeros((3, 2))), "target: expected an array of shape (3, 3)"),
    (
        lambda: pjp.squared_error(one_hot, one_hot * 1j),
        "target: expected real numbers, given dtype complex128",
    ),
    (
        lambda: pjp.equality(one_hot, jnp.array([0, 5, 1])),
        "target: expected integers from 0 to 2, given 5 at index (1,)",
    ),
]


@pytest.mark.parametrize("number", range(len(ERRORS)))
def test_message(number: int) -> None:
    call, message = ERRORS[number]
    with pytest.raises(ArgumentError, match=re.escape(message)):
        call()


def test_errors_before_tracing_finishes() -> None:
    with pytest.raises(ArgumentError, match="z: expected a scalar"):
        jax.jit(pjp.project_sum)(v, v)


def test_check_labels() -> None:
    check_labels(np.array([0, 2]), 3)
    check_labels(np.eye(3), 3)
    check_labels(np.array(1), 2)
    with pytest.raises(ArgumentError, match="target: expected integers from 0 to 1, given 2$"):
        check_labels(2, 2, name="target")
    with pytest.raises(ArgumentError, match=r"given \[nan, 1.0\]"):
        check_labels(np.array([np.nan, 1.0]), 2)
    traced: list[Any] = []
    jax.jit(lambda labels: traced.append(check_labels(labels, 2)) or labels)(jnp.array([5]))
    assert traced == [None]
