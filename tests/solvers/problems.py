"""The problems and the solvers that the tests of this folder combine: one row each.

A new solver, or a new kind of network, is one more row.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jaxtyping import Array

import pjax_prim as pjp
from pjax_prim.feasibility import FeasibilityProblem

FIXTURES = Path(__file__).parent.parent / "data" / "trajectories.npz"
SIZES = {"mlp_skip": 2, "mlp_chain": 2, "mlp_deep": 4, "cnn_pool": 2, "cnn_flat": 1}
"""Hidden layers of the fixture networks."""


@dataclass(frozen=True)
class Problem:
    """A function with arguments: `fn(params, *args)` returns losses. Always the same objects.

    `identities`: how many constraints two-colouring has to insert.
    """

    name: str
    fn: Callable[..., Any]
    make: Callable[[], tuple[Any, ...]]
    identities: int = 0

    @property
    def arguments(self) -> tuple[Any, ...]:
        """`(params, *args)`."""
        return _arguments(self)

    def solve(self, solver: pjp.AbstractSolver, max_steps: int, **options: Any) -> pjp.Solution:
        return pjp.solve(self.fn, *self.arguments, solver=solver, max_steps=max_steps, **options)

    def __str__(self) -> str:
        return self.name


@cache
def _arguments(problem: Problem) -> tuple[Any, ...]:
    return problem.make()


@cache
def fixtures() -> dict[str, np.ndarray]:
    """The file of golden trajectories."""
    with np.load(FIXTURES) as file:
        return dict(file)


def layered(
    params: dict[str, Array], x: Array, labels: Array, *, layers: int, loss: str, chain: bool
) -> Array:
    """The fixture networks: hidden layers, the output reads the last or (skips) all of them."""
    h, hidden = x, []
    for i in range(layers):
        h = jax.nn.relu(params[f"relu_{i}.bias"] + h @ params[f"dense_{i}.weight"])
        hidden.append(h)
    return classify((h if chain else jnp.concatenate(hidden, -1)) @ params["out.weight"], labels, loss)


def convolutional(
    params: dict[str, Array], x: Array, labels: Array, *, layers: int, loss: str, flat: bool
) -> Array:
    """The fixture networks: 3x3 convolutions, the output reads the last or the maxima of all of them."""
    h, pooled = x, []
    for i in range(layers):
        weight = params[f"conv_{i}.linear.weight"].reshape(h.shape[-1], 3, 3, -1)
        numbers = ("NHWC", "IHWO", "NHWC")
        s = jax.lax.conv_general_dilated(h, weight, (1, 1), "SAME", dimension_numbers=numbers)
        h = jax.nn.relu(params[f"relu_{i}.bias"] + s)
        pooled.append(jnp.max(h, (1, 2)))
    features = h.reshape(h.shape[0], -1) if flat else jnp.concatenate(pooled, -1)
    return classify(features @ params["out.weight"], labels, loss)


def classify(logits: Array, labels: Array, loss: str) -> Array:
    if loss == "margin":
        return pjp.margin_loss(logits, labels)
    return pjp.cross_entropy(logits, labels, lam=5.0)


def fixture_problem(name: str, loss: str) -> Problem:
    def make() -> tuple[Any, ...]:
        arrays, prefix = fixtures(), f"{name}/init/"
        params = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        return params, arrays[f"{name}/x"], arrays[f"{name}/labels"]

    settings: dict[str, Any] = {"layers": SIZES[name], "loss": loss}
    if name.startswith("cnn"):
        fn = partial(convolutional, **settings, flat=name == "cnn_flat")
    else:
        fn = partial(layered, **settings, chain=name == "mlp_chain")
    return Problem(f"{name}-{loss}", fn, make)


def normal(seed: int, *shape: int) -> Array:
    return jr.normal(jr.key(seed), shape)


def linear(model: eqx.nn.Linear, x: Array, labels: Array) -> Array:
    return pjp.margin_loss(jax.vmap(model)(x), labels)


def mlp(model: eqx.nn.MLP, x: Array, labels: Array) -> Array:
    return jnp.mean(pjp.cross_entropy(jax.vmap(model)(x), labels, lam=0.3))


def steps(params: dict[str, Array], x: Array, target: Array) -> Array:
    """Quantize, sign and an elementwise product."""
    rounded = pjp.quantize(x @ params["levels"], levels=3, scale=1.5)
    gate = jnp.sign(x @ params["gate"])
    return pjp.squared_error((rounded * gate) @ params["out"], target)


def reductions(params: dict[str, Array], x: Array, target: Array) -> tuple[Array, Array]:
    """Maxima and minima of pairs and over axes, sums, means, scaling, clipping; two losses."""
    h = jnp.einsum("bti,io->bto", x, params["w"])
    top, mean = jnp.max(h, 1), jnp.mean(h, 1)
    joined = jnp.maximum(top - params["b"], 0.5 * mean)
    clipped = jnp.minimum(joined, 0.8)
    return pjp.squared_error(clipped, target), pjp.squared_error(jnp.sum(h, (1, 2)), target[:, 0])


def movements(params: dict[str, Array], x: Array, target: Array) -> Array:
    """Disjoint slices, a gather that repeats an index, padding, reversal; some elements unused."""
    w = params["w"]  # (6, 4): rows 0 to 2 and 3 to 5 are used apart
    left, right = x @ w[:3], x @ w[3:, ::-1]
    columns = jnp.concatenate([left[:, jnp.array([0, 2, 2])], right[:, 1:]], -1)
    shaped = jnp.pad(columns, ((0, 0), (1, 0))).reshape(x.shape[0], 7)
    picked = jnp.where(jnp.arange(7) % 2 == 0, shaped, params["b"])
    return pjp.squared_error(picked, target)


def tied(params: dict[str, Array], x: Array, target: Array) -> Array:
    """A weight used in two products in a row: a cycle of three nodes has no two-colouring."""
    return pjp.squared_error(x @ params["w"] @ params["w"] + params["b"], target)


def shared(params: dict[str, Array], x: Array, labels: Array) -> Array:
    """A residual connection around a relu alone, another triangle, and a bias used twice."""
    h = jax.nn.relu(x @ params["w"] + params["b"])
    h = pjp.sum_relu(h, -params["b"]) + h
    return pjp.margin_loss(h @ params["out"], labels)


def residual(params: dict[str, Array], x: Array, target: Array) -> Array:
    """A small regression whose target the tests choose."""
    h = jax.nn.relu(x @ params["w"] + params["b"])
    return pjp.equality(h @ params["out"], target)


def strided(params: dict[str, Array], x: Array, target: Array) -> Array:
    """Convolutions with groups, strides that skip elements, dilation and a residual beside one.

    The last convolution reads every other element of `h`, the residual all of them.
    """
    conv = jax.lax.conv_general_dilated
    h = conv(x, params["grouped"], (1,), ((1, 1),), feature_group_count=2)
    h = jax.nn.relu(h + params["b"])
    even = conv(h, params["skipping"], (2,), "VALID")
    wide = conv(even, params["up"], (1,), ((1, 1),), lhs_dilation=(2,))
    return pjp.squared_error(wide + h[:, :, : wide.shape[2]], target)


def recurrent(params: dict[str, Array], x: Array, target: Array, labels: Array) -> tuple[Array, Array]:
    """A recurrent network over the first axis of `x`: its start is trained, every state is read."""

    def cell(carry: tuple[Array, Array], x: Array) -> tuple[tuple[Array, Array], Array]:
        h, time = carry
        h = jax.nn.relu(h @ params["w"] + x @ params["u"] + params["b"] / (1.0 + time))
        return (h, time + 1), h

    start = jnp.broadcast_to(params["start"], (x.shape[1], len(params["start"])))
    (h, _), states = jax.lax.scan(cell, (start, jnp.zeros((), int)), x)
    return pjp.squared_error(states @ params["out"], target), pjp.margin_loss(h, labels)


def nested(params: dict[str, Array], x: Array, target: Array) -> Array:
    """A loop in a loop that runs backwards, over chunks of a sequence; a loss in every iteration."""

    def chunk(h: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        x, target = inputs
        first = jax.nn.relu(h @ params["between"])
        h, states = jax.lax.scan(lambda h, x: (cell(h, x),) * 2, first, x)
        return h, pjp.squared_error(states @ params["out"], target)

    @jax.checkpoint
    def cell(h: Array, x: Array) -> Array:
        return jax.nn.relu(h @ params["w"] + x @ params["u"])

    return jax.lax.scan(chunk, jnp.ones((x.shape[2], 3)), (x, target), reverse=True)[1]


def registers(params: dict[str, Array], x: Array, target: Array) -> tuple[Array, Array]:
    """A delay line, a register that only turns, and one that a step adds to."""

    def step(carry: tuple[Array, ...], x: Array) -> tuple[tuple[Array, ...], Array]:
        now, before, turning, total = carry
        total = total + x * params["b"]
        return (x @ params["w"], now, jnp.roll(turning, 1), total), before * turning

    start = (jnp.zeros(4), jnp.ones(4), params["start"], jnp.zeros(4))
    (*_, total), ys = jax.lax.scan(step, start, x)
    return pjp.squared_error(ys, target), pjp.equality(total, target[0])


def stacked(params: dict[str, Array], x: Array, labels: Array) -> Array:
    """Equal layers as a loop over their stacked weights, then a loop over the batch."""

    def layer(h: Array, weights: tuple[Array, Array]) -> tuple[Array, None]:
        w, b = weights
        return jax.nn.relu(h @ w + b), None

    h, _ = jax.lax.scan(layer, x, (params["w"], params["b"]))
    return jax.lax.map(lambda h: pjp.cross_entropy(h[0] @ params["out"], h[1], lam=0.5), (h, labels))


LABELS = jnp.array([0, 2, 1, 0, 2])

PROBLEMS = (
    Problem(
        "linear",
        linear,
        lambda: (eqx.nn.Linear(4, 3, key=jr.key(0)), normal(1, 5, 4), LABELS),
    ),
    Problem(
        "eqx_mlp",
        mlp,
        lambda: (eqx.nn.MLP(4, 3, 6, 1, key=jr.key(0)), normal(1, 5, 4), LABELS),
    ),
    Problem(
        "steps",
        steps,
        lambda: (
            {"levels": normal(0, 4, 5), "gate": normal(1, 4, 5), "out": normal(2, 5, 2)},
            normal(3, 5, 4),
            normal(4, 5, 2),
        ),
    ),
    Problem(
        "reductions",
        reductions,
        lambda: (
            {"w": normal(0, 3, 4), "b": normal(1, 4)}, normal(2, 5, 2, 3), normal(3, 5, 4)
        ),
        identities=1,
    ),
    Problem(
        "movements",
        movements,
        lambda: ({"w": normal(0, 6, 4), "b": normal(1, 7)}, normal(2, 5, 3), normal(3, 5, 7)),
    ),
    Problem(
        "strided",
        strided,
        lambda: (
            {
                "grouped": normal(0, 4, 1, 3),
                "b": normal(1, 4, 1),
                "skipping": normal(2, 3, 4, 1),
                "up": normal(3, 4, 3, 2),
            },
            normal(4, 3, 2, 6),
            normal(5, 3, 4, 6),
        ),
    ),
    Problem(
        "tied",
        tied,
        lambda: ({"w": normal(0, 4, 4), "b": normal(1, 4)}, normal(2, 5, 4), normal(3, 5, 4)),
        identities=1,
    ),
    Problem(
        "shared",
        shared,
        lambda: (
            {"w": normal(0, 4, 6), "b": normal(1, 6), "out": normal(2, 6, 3)},
            normal(3, 5, 4),
            LABELS,
        ),
        identities=1,
    ),
    Problem(
        "recurrent",
        recurrent,
        lambda: (
            {
                "w": normal(0, 3, 3),
                "u": normal(1, 2, 3),
                "b": normal(2, 3),
                "start": normal(3, 3),
                "out": normal(4, 3, 2),
            },
            normal(5, 4, 5, 2),
            normal(6, 4, 5, 2),
            LABELS,
        ),
    ),
    Problem(
        "nested",
        nested,
        lambda: (
            {
                "w": normal(0, 3, 3),
                "u": normal(1, 2, 3),
                "between": normal(2, 3, 3),
                "out": normal(3, 3, 2),
            },
            normal(4, 2, 3, 5, 2),
            normal(5, 2, 3, 5, 2),
        ),
    ),
    Problem(
        "registers",
        registers,
        lambda: (
            {"w": normal(0, 4, 4), "b": normal(1, 4), "start": normal(2, 4)},
            normal(3, 6, 4),
            normal(4, 6, 4),
        ),
        identities=4,
    ),
    Problem(
        "stacked",
        stacked,
        lambda: (
            {"w": normal(0, 3, 4, 4), "b": normal(1, 3, 4), "out": normal(2, 4, 3)},
            normal(3, 5, 4),
            LABELS,
        ),
    ),
)  # fmt: skip

SMALL = Problem(
    "small",
    residual,
    lambda: (
        {"w": normal(0, 3, 4), "b": normal(1, 4), "out": normal(2, 4, 2)},
        normal(3, 4, 3),
        normal(4, 4, 2),
    ),
)
"""The problem of tests that need only one."""

FIXTURE_PROBLEMS = tuple(
    (name, loss, fixture_problem(name, loss))
    for name in SIZES
    for loss in ("cross_entropy", "margin")
    if f"{name}/{loss}/cyclic_projections/1/out.weight" in fixtures()
)

TWO_FORMS: dict[str, type[pjp.AbstractSolver]] = {
    "alternating_projections": pjp.AlternatingProjections,
    "cyclic_projections": pjp.CyclicProjections,
}
"""Solvers that run in both forms."""

ONE_FORM: dict[str, pjp.AbstractSolver] = {
    "alternating_reflections": pjp.AlternatingReflections(),
    "douglas_rachford_0.5": pjp.DouglasRachford(),
    "douglas_rachford_0.3": pjp.DouglasRachford(relaxation=0.3),
    "difference_map_1.0": pjp.DifferenceMap(),
    "difference_map_0.5": pjp.DifferenceMap(beta=0.5),
    "cyclic_douglas_rachford": pjp.CyclicDouglasRachford(),
}
"""Settings of the solvers whose sequence leaves consensus, by their names in the fixtures."""

OTHER_SOLVERS: dict[str, pjp.AbstractSolver] = {
    "extrapolated_projections": pjp.ExtrapolatedProjections(rate=0.02),
    "joint_projections": pjp.JointProjections(),
    "adaptive_metric": pjp.AdaptiveMetric(pjp.AlternatingProjections(), rate=0.02),
    "anderson": pjp.Anderson(pjp.CyclicProjections()),
    "restarted": pjp.Restarted(pjp.ExtrapolatedProjections(rate=0.01)),
}
"""Solvers that are not the paper's."""

SOLVERS: dict[str, pjp.AbstractSolver] = (
    ONE_FORM
    | OTHER_SOLVERS
    | {
        f"{name}_{form}": kind(form=form)
        for name, kind in TWO_FORMS.items()
        for form in ("compressed", "expanded")
    }
)


def every_solver(
    cases: Iterable[tuple[Any, ...]], solvers: Iterable[str], is_slow: Callable[[tuple[Any, ...], str], bool]
) -> list[Any]:
    """The rows (*case, solver) of a table of tests; the last of a case is its problem."""
    return [
        pytest.param(
            *case,
            solver,
            id=f"{case[-1]}-{solver}",
            marks=pytest.mark.slow if is_slow(case, solver) else (),
        )
        for case in cases
        for solver in solvers
    ]


def read(problem: Problem, solver: pjp.AbstractSolver, state: Any, readout: str) -> list[Array]:
    """The parameters that a state stands for, without another compilation of the solve."""
    params, *args = problem.arguments
    prepared = FeasibilityProblem.of(problem.fn, params, *args)
    graph = prepared.graph.two_coloured if solver.two_sets else prepared.graph
    feasibility = prepared.numbers(graph, solver.form)
    return [x for x in feasibility.parameters(state, readout) if x is not None]
