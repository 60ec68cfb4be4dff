"""A primitive from outside the library gets a projection, from rule to solution."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxtyping import Array

import pjax_prim as pjp
from pjax_prim.rules import registry
from pjax_prim.rules.constraint import Arrays

triple_p = Primitive("triple")
triple_p.def_abstract_eval(lambda x: jax.core.ShapedArray(x.shape, x.dtype))
triple_p.def_impl(lambda x: 3 * x)
mlir.register_lowering(triple_p, mlir.lower_fun(lambda x: 3 * x, multiple_results=False))
batching.defvectorized(triple_p)


@dataclass(frozen=True)
class Triple(pjp.AbstractConstraint):
    """y = 3 x; the nearest point to (x0, y0) is x = (x0 + 3 y0)/10."""

    kind: ClassVar[str] = "triple"

    def forward(self, operands: Arrays, constants: Arrays) -> Array:
        return triple_p.bind(*operands)

    def project(self, copies: Arrays, target: Array | None, constants: Arrays) -> Arrays:
        assert target is not None
        return ((copies[0] + 3 * target) / 10,)


@pytest.fixture
def registered() -> Iterator[None]:
    pjp.register_projection(triple_p, lambda ctx: pjp.ConstraintRule(Triple(), (0,)))
    yield
    del registry._RULES[triple_p]


def fit(params: dict[str, Array], x: Array, target: Array) -> Array:
    return pjp.squared_error(triple_p.bind(x @ params["w"]), target)


X = jnp.arange(6.0).reshape(3, 2) / 5
W = jnp.array([[1.0, -1], [0.5, 2]])


@pytest.mark.usefixtures("registered")
def test_solves() -> None:
    target = 3 * X @ W
    start = {"w": jnp.ones((2, 2))}
    graph = pjp.constraint_graph(fit)(start, X, target)
    assert "triple_0" in [node.name for node in graph.nodes]
    assert "triple_0" in str(graph)
    first, last = (
        pjp.solve(fit, start, X, target, solver=pjp.DouglasRachford(), max_steps=n) for n in (1, 500)
    )
    assert last.stats["gap"] < 0.01 * first.stats["gap"]
    np.testing.assert_allclose(3 * X @ last.params["w"], target, atol=0.05)


@pytest.mark.usefixtures("registered")
def test_both_forms_agree() -> None:
    runs = [
        pjp.solve(
            fit,
            {"w": jnp.ones((2, 2))},
            X,
            3 * X @ W,
            solver=pjp.AlternatingProjections(form=form),
            max_steps=10,
        )
        for form in ("compressed", "expanded")
    ]
    np.testing.assert_allclose(runs[0].params["w"], runs[1].params["w"], rtol=1e-12)


@pytest.mark.usefixtures("registered")
def test_twice_is_an_error() -> None:
    with pytest.raises(pjp.ArgumentError, match="'triple' already has a rule"):
        pjp.register_projection(triple_p, lambda ctx: pjp.Movement("bijective"))


@pytest.mark.parametrize(
    ("primitive", "rule", "message"),
    [
        ("triple", lambda ctx: None, "expected a jax.extend.core.Primitive, given str"),
        (triple_p, "rule", "expected a function of a RuleContext"),
    ],
)
def test_bad_arguments(primitive: Any, rule: Any, message: str) -> None:
    with pytest.raises(pjp.ArgumentError, match=message):
        pjp.register_projection(primitive, rule)


def test_without_a_rule() -> None:
    with pytest.raises(pjp.MissingRuleError, match="primitive 'triple'") as caught:
        pjp.constraint_graph(lambda params: fit(params, X, X))({"w": W})
    assert "pjp.register_projection(primitive, rule)" in str(caught.value)
