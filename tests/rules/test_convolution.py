"""The compressed form of the convolution constraint against its copy-by-copy definition."""

from functools import cache
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import pjax_prim as pjp
from pjax_prim.rules import AbstractConstraint, RuleContext, rule_of
from pjax_prim.rules.convolution import Convolution

CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    # operands' shapes and the convolution's parameters; NCHW, OIHW unless they say otherwise
    "valid": ((2, 3, 5, 4), (4, 3, 3, 2), {"padding": "VALID"}),
    "same": ((2, 3, 5, 4), (4, 3, 3, 2), {}),
    "strides": ((2, 3, 6, 5), (4, 3, 3, 2), {"window_strides": (2, 3)}),
    "unused elements": ((2, 3, 6, 5), (4, 3, 1, 2), {"window_strides": (2, 3), "padding": "VALID"}),
    "explicit padding": ((2, 3, 5, 4), (4, 3, 3, 2), {"padding": ((3, 0), (1, 2))}),
    "negative padding": ((2, 3, 5, 4), (4, 3, 2, 2), {"padding": ((-1, 2), (1, -2))}),
    "lhs dilation": ((2, 3, 4, 3), (4, 3, 3, 2), {"lhs_dilation": (2, 3), "padding": ((2, 2), (1, -2))}),
    "rhs dilation": ((2, 3, 6, 5), (4, 3, 2, 3), {"rhs_dilation": (2, 1)}),
    "everything": (
        (2, 4, 5, 4), (6, 2, 2, 3),
        {"window_strides": (2, 1), "padding": ((3, 1), (-1, 2)), "lhs_dilation": (2, 3),
         "rhs_dilation": (3, 2), "feature_group_count": 2},
    ),
    "feature groups": ((2, 4, 5, 4), (6, 2, 3, 2), {"feature_group_count": 2}),
    "depthwise": ((2, 3, 5, 4), (6, 1, 3, 2), {"feature_group_count": 3}),
    "batch groups": ((4, 3, 5, 4), (6, 3, 3, 2), {"batch_group_count": 2}),
    "batch groups, strides": ((6, 3, 5, 4), (3, 3, 3, 2), {"batch_group_count": 3, "window_strides": (2, 2)}),
    "one axis": ((2, 3, 7), (4, 3, 3), {"window_strides": (2,)}),
    "three axes": ((2, 2, 3, 4, 3), (3, 2, 2, 3, 2), {"window_strides": (1, 2, 1)}),
    "no spatial axes": ((5, 3), (4, 3), {"window_strides": (), "padding": ()}),
    "channels last": ((2, 5, 4, 3), (3, 2, 3, 4), {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}),
    "odd layouts": ((5, 3, 2, 4), (4, 3, 2, 3), {"dimension_numbers": ("HCNW", "OHWI", "WNHC")}),
}  # fmt: skip
SPECIAL = ("random", "zeros", "parallel", "antiparallel", "far", "tiny", "huge")

FIRST_CASES = ("same", "everything", "depthwise", "batch groups, strides", "one axis", "odd layouts")
"""Between them all that a convolution can have; the others on hostile queries if asked for."""

every_case = pytest.mark.parametrize("case", CASES)


def function(case: str) -> Any:
    lhs, _, given = CASES[case]
    params = {"window_strides": (1,) * (len(lhs) - 2), "padding": "SAME", **given}
    return lambda x, w: lax.conv_general_dilated(x, w, **params)


def make(case: str, dtype: Any = "float64") -> Convolution:
    operands = [jax.ShapeDtypeStruct(shape, dtype) for shape in CASES[case][:2]]
    (equation,) = jax.make_jaxpr(function(case))(*operands).eqns
    avals = tuple(x.aval for x in equation.invars), tuple(x.aval for x in equation.outvars)
    context = RuleContext(equation.primitive, equation.params, *avals, (False, False), (None, None))
    rule = rule_of(equation.primitive)
    assert rule is not None
    constraint = rule(context).constraint
    assert isinstance(constraint, Convolution)
    return constraint


def sample(case: str, special: str = "random") -> Any:
    """A constraint, operands, copies near them and a target."""
    constraint = make(case)
    random = np.random.default_rng(len(special))
    left, right, _ = CASES[case]
    a, b = (jnp.asarray(random.normal(size=shape)) for shape in (left, right))
    target = jnp.asarray(random.normal(size=jax.eval_shape(constraint.forward, (a, b), ()).shape))
    if special == "zeros":
        a, b, target = 0 * a, 0 * b, 3 + target
    if special in ("parallel", "antiparallel"):
        a, b = jnp.ones(left), jnp.ones(right) * (1 if special == "parallel" else -1)
        target = 50 * target
    scale = {"far": (1, 1e6), "tiny": (1e-6, 1e-6), "huge": (1e6, 1e6)}.get(special, (1, 1))
    a, b, target = a * scale[0], b * scale[0], target * scale[1]
    copies = tuple(
        x + 0.3 * scale[0] * random.normal(size=x.shape) for x in jax.jit(constraint.expand)((a, b))
    )
    return constraint, (a, b), copies, target


def size(*trees: Any) -> float:
    return max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(trees))


@every_case
def test_forward_is_the_traced_convolution(case: str) -> None:
    constraint, operands, _, _ = sample(case)

    @jax.jit
    def three_ways(operands: Any) -> Any:
        of_copies = constraint.evaluate(constraint.expand(operands), ())
        return constraint.forward(operands, ()), of_copies, function(case)(*operands)

    forward, of_copies, traced = three_ways(operands)
    chex.assert_trees_all_equal(forward, traced)
    chex.assert_trees_all_close(of_copies, traced, rtol=1e-12, atol=1e-12)


@every_case
def test_copies(case: str) -> None:
    constraint, operands, copies, _ = sample(case)
    lhs_count, rhs_count = constraint.multiplicity([x.shape for x in operands])
    # Which element of the operand each copy is of, from copies of the elements' numbers.
    numbers = 1.0 + jnp.arange(operands[0].size).reshape(operands[0].shape)
    expand, average = jax.jit(constraint.expand), jax.jit(constraint.average)
    of = np.asarray(expand((numbers, operands[1]))[0]).astype(int).ravel()
    counted = np.bincount(of, minlength=numbers.size + 1)[1:].reshape(numbers.shape)
    np.testing.assert_array_equal(np.broadcast_to(lhs_count, numbers.shape), counted)
    assert rhs_count * operands[1].size == copies[1].size
    # Averages, from the same numbers.
    total = np.bincount(of, copies[0].ravel(), numbers.size + 1)[1:].reshape(numbers.shape)
    means = average(copies)
    used = counted > 0
    np.testing.assert_allclose(means[0][used], (total / np.maximum(counted, 1))[used], rtol=1e-12)
    assert not used.all() or case != "unused elements"
    again = average(expand(operands))
    np.testing.assert_allclose(again[0][used], operands[0][used], rtol=1e-12)
    np.testing.assert_allclose(again[1], operands[1], rtol=1e-12)


@cache
def both_forms(case: str) -> Any:
    """One compilation for all samples of a case."""
    constraint, both = make(case), (True, True)

    @jax.jit
    def project(operands: Any, target: Any) -> Any:
        plain = AbstractConstraint.project_average(constraint, operands, target, (), both)
        return constraint.project_average(operands, target, (), both), plain

    return project


@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize(
    "case", [pytest.param(x, marks=() if x in FIRST_CASES else pytest.mark.slow) for x in CASES]
)
def test_project_average_is_expand_project_average(case: str, special: str) -> None:
    _, operands, _, target = sample(case, special)
    compressed, plain = both_forms(case)(operands, target)
    scale = size(operands, plain.displacements)
    # The projection itself is ill-conditioned near x = +-w with far targets.
    tolerance = 1e-12 if special in ("random", "tiny", "zeros") else 1e-9
    chex.assert_trees_all_close(compressed.displacements, plain.displacements, rtol=0, atol=tolerance * scale)
    chex.assert_trees_all_close(compressed.output, plain.output, rtol=0,
                                atol=tolerance * (size(target) + scale**2))  # fmt: skip
    chex.assert_trees_all_close(compressed.moved, plain.moved, rtol=1e-7, atol=1e-9 * scale**2)


@pytest.mark.parametrize("case", ["everything", "batch groups"])
def test_only_what_is_wanted(case: str) -> None:
    constraint, operands, _, target = sample(case)

    def project(wanted: tuple[bool, bool]) -> Any:
        return jax.jit(lambda *x: constraint.project_average(*x, (), wanted))(operands, target)

    whole = project((True, True))
    for wanted in ((False, True), (True, False), (False, False)):
        some = project(wanted)
        for want, given, expected in zip(wanted, some.displacements, whole.displacements, strict=True):
            assert given is None if not want else jnp.allclose(given, expected, rtol=1e-12, atol=1e-14)


def test_low_precision_operands() -> None:
    """A bfloat16 convolution: finite at far targets, displacements in float32."""
    constraint = make("everything", "bfloat16")
    assert constraint.operand_dtype == jnp.bfloat16
    _, operands, _, target = sample("everything")
    wide = tuple(x.astype("bfloat16").astype("float32") for x in operands)
    for far in (1.0, 1e4, -1e4):
        result = constraint.project_average(wide, far * target.astype("float32"), (), (True, True))
        exact = make("everything").project_average(
            tuple(x.astype("float64") for x in wide), far * target, (), (True, True)
        )
        for got, expected in zip(jax.tree.leaves(result), jax.tree.leaves(exact), strict=True):
            assert got.dtype == jnp.float32
            scale = float(jnp.max(jnp.abs(expected)))
            np.testing.assert_allclose(got, expected, rtol=0, atol=0.02 * scale)


@pytest.mark.parametrize(
    ("lhs", "rhs", "text"),
    [((2, 0, 5), (3, 0, 2), "an empty filter"), ((0, 2, 5), (3, 2, 2), "a convolution without output")],
)
def test_empty_convolutions_are_errors(lhs: tuple[int, ...], rhs: tuple[int, ...], text: str) -> None:
    def loss(w: Any, x: Any) -> Any:
        y = lax.conv_general_dilated(x, w, (1,), "SAME")
        return pjp.squared_error(y, jnp.zeros_like(y))

    with pytest.raises(pjp.errors.MissingRuleError, match=text):
        pjp.constraint_graph(loss)(jnp.zeros(rhs), jnp.zeros(lhs))


def test_copies_and_bytes_are_printed() -> None:
    def loss(w: Any, x: Any) -> Any:
        y = lax.conv_general_dilated(x, w, (2,), ((1, 1),))
        return pjp.squared_error(y, jnp.zeros_like(y))

    graph = pjp.constraint_graph(loss)(jnp.zeros((4, 3, 3), "float32"), jnp.zeros((2, 3, 6), "float32"))
    node = next(node for node in graph.nodes if node.kind == "convolution")
    # 2 * 3 positions * 4 filters, each a copy of 9 elements of either operand.
    assert (node.constraints, node.copies) == (24, 2 * 24 * 9)
    line = next(line for line in str(graph).splitlines() if line.startswith("convolution_0"))
    assert "convolution_0[3, stride 2, padding 1]" in line and "1.73 kB" in line and "144 B" in line
