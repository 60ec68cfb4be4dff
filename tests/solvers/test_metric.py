"""Metrics: weighted projections are nearest points, and every form and solver takes them alike."""

import re
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax import lax

import pjax_prim as pjp
from pjax_prim.metric import weigh
from pjax_prim.primitives._window import Window
from pjax_prim.rules.constraint import AbstractConstraint
from pjax_prim.rules.convolution import Convolution
from pjax_prim.rules.elementwise import Identity, Product, Scale, Sum, SumRelu
from pjax_prim.rules.linear import Linear
from pjax_prim.rules.losses import CrossEntropy, Margin
from pjax_prim.rules.reductions import ReduceSum

from .problems import LABELS, SMALL, normal

SLOW = pytest.mark.slow
MATRICES = (((1,), (1,)), ((), ()))
WINDOW = Window((2,), (1,), ((0, 0),), (1,), (1,))
CONVOLUTION = Convolution(
    ((1, 2, 3), (1, 2, 2)), WINDOW, lax.conv_dimension_numbers((1, 2, 3), (1, 2, 2), ("NCH", "OIH", "NCH"))
)
WEIGHTED: dict[str, tuple[AbstractConstraint, tuple[tuple[int, ...], ...], tuple[Any, ...]]] = {
    "linear": (Linear(((1, 3), (2, 3)), MATRICES), ((1, 3), (2, 3)), ()),
    "convolution": (CONVOLUTION, ((1, 2, 3), (1, 2, 2)), ()),
    "identity": (Identity(), ((4,),), ()),
    "sum": (Sum((1, -1, 1), (-1,)), ((4,),) * 3, (jnp.full(4, 0.7),)),
    "sum_relu": (SumRelu((1, -1), (1,)), ((6,),) * 2, (jnp.full(6, 0.3),)),
    "scale": (Scale(), ((4,),), (jnp.full(4, -1.7),)),
    "product": (Product(), ((4,),) * 2, ()),
    "reduce_sum": (ReduceSum((0,)), ((3, 2),), ()),
}
"""Constraints whose projections know weights, the shapes of their operands, and constants."""


@partial(jax.jit, static_argnums=0)
def cost(constraint: AbstractConstraint, point: Any, copies: Any, target: Any, constants: Any) -> Any:
    """The weighted squared distance of a point from a query, and its gradient."""

    def distance(point: Any) -> Any:
        parts = jnp.split(point, np.cumsum([x.size for x in copies])[:-1])
        moved = tuple(x.reshape(y.shape) for x, y in zip(parts, copies, strict=True))
        missed = constraint.evaluate(moved, constants) - target
        return constraint.squared_between(moved, copies) + jnp.sum(jnp.square(missed))

    return jax.value_and_grad(distance)(point)


def nearest(constraint: AbstractConstraint, copies: Any, target: Any, constants: Any) -> float:
    """The least of `cost`, by a minimiser that knows no projections."""
    start = np.concatenate([np.ravel(x) for x in copies])
    starts = [start, *(start + np.random.default_rng(0).standard_normal((6, start.size)))]

    def both(point: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(map(np.asarray, cost(constraint, point, copies, target, constants)))

    return float(min(scipy.optimize.minimize(both, x, jac=True, tol=1e-12).fun for x in starts))


@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.parametrize("weights", [(0.2, 3.0, 40.0), pytest.param((7.0, 1.0, 0.5), marks=SLOW)], ids=str)
@pytest.mark.parametrize("scale", [0.3, 5.0])
def test_weighted_projections_are_nearest_points(name: str, weights: Any, scale: float) -> None:
    plain, shapes, constants = WEIGHTED[name]
    constraint = plain.weighted(weights[: len(shapes)])
    assert constraint is not None
    operands = tuple(normal(i, *shape) for i, shape in enumerate(shapes))
    output = constraint.forward(operands, constants)
    target = output + scale * normal(9, *output.shape)
    copies = constraint.expand(operands)
    projected, new = constraint.project_output(copies, target, constants)
    found = constraint.squared_between(projected, copies) + jnp.sum(jnp.square(new - target))
    search = piecewise if name in ("linear", "convolution", "sum_relu", "product") else nearest
    assert float(found) <= search(constraint, copies, target, constants) * (1 + 1e-8) + 1e-10
    # Without copies it is the same.
    wanted = (True,) * len(shapes)
    average = constraint.project_average(operands, target, constants, wanted)
    means = constraint.average(tuple(p - x for p, x in zip(projected, copies, strict=True)))
    chex.assert_trees_all_close(average.displacements, means, rtol=1e-9, atol=1e-12)
    chex.assert_trees_all_close(average.output, new, rtol=1e-9, atol=1e-12)
    moved = constraint.squared_between(projected, copies)
    np.testing.assert_allclose(average.moved, moved, rtol=1e-9, atol=1e-12)


def piecewise(constraint: AbstractConstraint, copies: Any, target: Any, constants: Any) -> float:
    """`nearest` of each elementary constraint on its own, as they have several minima."""
    if copies[0].ndim > 1:  # dot products
        size = copies[0].shape[-1]
        one = Linear(((1, size), (1, size)), MATRICES).weighted(constraint.weights or ())
        queries = zip(*(x.reshape(-1, 1, 1, 1, size) for x in copies), target.reshape(-1, 1, 1), strict=True)
        return sum(nearest(one, query[:-1], query[-1], ()) for query in queries)

    def part(arrays: Any, i: int) -> tuple[Any, ...]:
        return tuple(x[i : i + 1] for x in arrays)

    return sum(
        nearest(constraint, part(copies, i), target[i : i + 1], part(constants, i))
        for i in range(target.size)
    )


@pytest.mark.parametrize("weight", [0.2, 30.0])
def test_the_proximal_step_of_a_weighted_loss(weight: float) -> None:
    logits, labels = 3 * normal(0, 2, 5), jax.nn.one_hot(jnp.array([1, 4]), 5)
    (moved,) = CrossEntropy().weighted((weight,)).project((logits,), None, (labels, jnp.full(2, 2.0)))
    expected = jax.vmap(lambda x, y: pjp.prox_cross_entropy(x, y, lam=2.0 / weight))(logits, labels)
    np.testing.assert_allclose(moved, expected, rtol=1e-12)
    (clipped,) = Margin().weighted((weight,)).project((logits,), None, (labels, jnp.ones(2)))
    np.testing.assert_array_equal(clipped, Margin().project((logits,), None, (labels, jnp.ones(2)))[0])


METRIC = pjp.Metric(weights=3.0, activations=0.5, outputs=2.0, nodes=(("linear_1", 0.1), ("sum*", 4.0)))
PARAMS = {"hidden": normal(0, 4, 6), "bias": normal(1, 6), "out": normal(2, 6, 3)}
X = normal(3, 5, 4)


def network(params: Any, x: Any) -> Any:
    """Two products read the hidden layer."""
    hidden = jax.nn.relu(x @ params["hidden"] + params["bias"])
    return pjp.cross_entropy(hidden @ params["out"] + 0.1 * hidden @ params["out"], LABELS)


@pytest.mark.parametrize(
    ("kind", "metric"),
    [
        (pjp.AlternatingProjections, METRIC),
        pytest.param(pjp.CyclicProjections, "full-outputs", marks=SLOW),
        pytest.param(pjp.AlternatingProjections, "slow-weights", marks=SLOW),
        pytest.param(pjp.CyclicProjections, METRIC, marks=SLOW),
    ],
    ids=["ap", "cp", "slow weights", "cp and factors"],
)
def test_both_forms_agree(kind: Any, metric: Any) -> None:
    results = [
        pjp.solve(network, PARAMS, X, solver=kind(form=form, metric=metric), max_steps=6)
        for form in ("compressed", "expanded")
    ]
    chex.assert_trees_all_close(results[0].params, results[1].params, rtol=1e-10, atol=1e-12)
    chex.assert_trees_all_close(results[0].stats, results[1].stats, rtol=1e-9, atol=1e-11)
    plain = pjp.solve(network, PARAMS, X, solver=kind(), max_steps=6)
    assert float(jnp.abs(plain.params["hidden"] - results[0].params["hidden"]).max()) > 1e-6


def test_a_unit_metric_changes_no_bit() -> None:
    graph = pjp.constraint_graph(network)(PARAMS, X)
    assert weigh(graph, pjp.Metric()) is graph
    plain = pjp.solve(network, PARAMS, X, solver=pjp.DouglasRachford(), max_steps=4)
    unit = pjp.solve(network, PARAMS, X, solver=pjp.DouglasRachford(metric=pjp.Metric()), max_steps=4)
    chex.assert_trees_all_equal(plain.params, unit.params)


def test_douglas_rachford_in_a_metric() -> None:
    """x + 2 r (P_B(2 P_A x - x) - P_A x), by whole projections."""
    problem_of = pjp.DouglasRachford(0.3, metric=METRIC)
    fused = pjp.solve(network, PARAMS, X, solver=problem_of, max_steps=3)

    class Plain(pjp.AbstractSolver):
        form: Any = "expanded"
        forms = ("expanded",)
        two_sets = True

        def step(self, problem: Any, state: Any) -> Any:
            first, second = problem.graph.sets
            p = problem.project(first, state)
            q = problem.project(second, jax.tree.map(lambda p, z: 2 * p - z, p, state))
            moved = jax.tree.map(lambda z, p, q: z + 0.6 * (q - p), state, p, q)
            return moved, problem.squared_distances(p, q)

    plain = pjp.solve(network, PARAMS, X, solver=Plain(metric=METRIC), max_steps=3)
    chex.assert_trees_all_close(fused.params, plain.params, rtol=1e-10)
    np.testing.assert_allclose(fused.stats["gap"], plain.stats["gap"], rtol=1e-9)


def test_consensus_counts_consumers_by_their_factors() -> None:
    def two(w: Any, a: Any, b: Any) -> Any:
        return pjp.squared_error(w * a, jnp.ones(3)), pjp.squared_error(w + b, jnp.ones(3))

    w, a, b = normal(0, 3), normal(1, 3), normal(2, 3)
    metric = pjp.Metric(nodes=(("scale_0", 3.0), ("sum_0", 0.5)))
    given = pjp.FeasibilityProblem.of(two, w, a, b)
    graph = weigh(given.graph_for(pjp.AlternatingProjections(metric=metric)), metric)
    assert {"scale_0", "sum_0"} <= {node.name for node in graph.nodes}
    problem = given.numbers(graph)
    uses = {"scale_0": normal(5, 3), "sum_0": normal(6, 3)}
    found = problem.target(
        graph.parameters[0], lambda use: uses[graph.nodes[use.consumer].name], lambda: jnp.zeros(3)
    )
    np.testing.assert_allclose(found, (3 * uses["scale_0"] + 0.5 * uses["sum_0"]) / 3.5, rtol=1e-12)


@pytest.mark.parametrize(
    "kind", [pjp.AlternatingProjections, pytest.param(pjp.CyclicProjections, marks=SLOW)]
)
def test_an_adaptive_metric(kind: Any) -> None:

    def run(steps: int, rate: float = 0.1, form: Any = "compressed", **options: Any) -> Any:
        solver = pjp.AdaptiveMetric(kind(form=form), rate=rate, metric="full-outputs")
        return pjp.solve(network, PARAMS, X, solver=solver, max_steps=steps, **options)

    whole, stored = run(10), run(10, form="expanded")
    chex.assert_trees_all_close(whole.params, stored.params, rtol=1e-6)  # factors are float32
    rest = run(5, state=run(5).state)
    chex.assert_trees_all_close((rest.params, rest.state), (whole.params, whole.state), rtol=1e-10)
    factors = whole.state.memory.factors
    gaps = np.array(list(whole.stats["gap_per_node"].values()))
    assert factors[np.argmax(gaps)] > 1 and 0 < factors.min() < 0.9
    fixed = pjp.solve(network, PARAMS, X, solver=kind(metric="full-outputs"), max_steps=10)
    chex.assert_trees_all_close(run(10, rate=0.0).params, fixed.params, rtol=1e-10)


@pytest.mark.parametrize("value", [0, 0.0, -1.0, float("nan"), float("inf"), True, "large"])
@pytest.mark.parametrize("name", ["weights", "activations", "outputs"])
def test_weights_that_are_none(name: str, value: Any) -> None:
    allowed = "expected a finite number above zero"
    with pytest.raises(pjp.ArgumentError, match=f"{name}: {allowed}.*, given {value!r}"):
        pjp.Metric(**{name: value})


def test_errors() -> None:
    _, x, target = SMALL.arguments
    solver = pjp.AlternatingProjections

    def tanh(w: Any) -> Any:
        return pjp.squared_error(jnp.tanh(w * x[0, 0]), target)

    cases = [
        (lambda: pjp.Metric(nodes=(("sum*", 0.0),)), "nodes ('sum*'): expected a finite number above zero"),
        (lambda: solver(metric="fast"), "metric: expected a Metric or one of unit, slow-weights"),
        (
            lambda: SMALL.solve(solver(metric=pjp.Metric(nodes=(("conv*", 2.0),))), 1),
            "nodes: 'conv*' matches no node; there are ",
        ),
        (
            lambda: pjp.solve(tanh, target, solver=solver(metric=pjp.Metric(outputs=2.0)), max_steps=1),
            "is a scalar constraint, whose projection knows no weights: expected its inputs and its output "
            "to weigh 1 each, given 1.0 and 2.0",
        ),
        (lambda: pjp.ExtrapolatedProjections(metric="full-outputs"), "metric: ExtrapolatedProjections has a"),
        (lambda: pjp.ReflectReflectRelax(metric=METRIC), "metric: ReflectReflectRelax adapts a metric"),
        (lambda: pjp.AdaptiveMetric(solver(metric="full-outputs")), "solver: expected one with the metric"),
        (lambda: pjp.AdaptiveMetric(solver(), rate=1.0), "rate: expected a number of at least 0 and below 1"),
    ]
    for call, message in cases:
        with pytest.raises(pjp.ArgumentError, match=re.escape(message)):
            call()
