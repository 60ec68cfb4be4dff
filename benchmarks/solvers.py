"""Projection solvers and ways to speed them up: `python -m benchmarks.solvers --data-dir DIR`.

MNIST, 784-128-128-10 with skips, batch after batch from its forward pass, no optimiser. Of each contestant
the test accuracy, by how much the first and the last layer's weights have moved relative to their length, and
milliseconds for a batch.

"relaxed" is z + r (T z - z) for the step T of the solver.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

import pjax_prim as pjp
from pjax_prim.data import Dataset, batch, load
from pjax_prim.feasibility import FeasibilityProblem
from pjax_prim.models import MLP
from pjax_prim.stepping import make_problem

Step = Callable[[Array], Array]
Loop = Callable[[Step, Array, int], Array]


def plain(step: Step, z: Array, count: int) -> Array:
    return jax.lax.fori_loop(0, count, lambda _, z: step(z), z)


def relaxed(factor: float) -> Loop:
    return lambda step, z, count: plain(lambda z: z + factor * (step(z) - z), z, count)


def contestants(steps: int) -> dict[str, tuple[pjp.AbstractSolver, Loop, int]]:
    """Solver, loop, and steps on each batch."""
    ap, cp, ep = pjp.AlternatingProjections, pjp.CyclicProjections, pjp.ExtrapolatedProjections
    return {
        "ap": (ap(), plain, steps),
        "ap, slow-weights": (ap(metric="slow-weights"), plain, steps),
        "ap, full-outputs": (ap(metric="full-outputs"), plain, steps),
        "ap, adaptive": (pjp.AdaptiveMetric(ap(), rate=0.03), plain, steps),
        "ap, relaxed 1.5": (ap(), relaxed(1.5), steps),
        "ap, anderson": (pjp.Anderson(ap()), plain, steps),
        "ap, restarted": (pjp.Restarted(ap()), plain, steps),
        "cp": (cp(), plain, steps),
        "cp, anderson": (pjp.Anderson(cp()), plain, steps),
        "cp, restarted": (pjp.Restarted(cp()), plain, steps),
        "ep, 0.5": (ep(), plain, 1),
        "ep, 1": (ep(rate=1.0), plain, 1),
        "ep, 0.05, several steps": (ep(rate=0.05), plain, 10),
        "ep, 0.1, several steps": (ep(rate=0.1), plain, 10),
        "ep, 0.1, anderson": (pjp.Anderson(ep(rate=0.1)), plain, 10),
        "jp": (pjp.JointProjections(), plain, 1),
        "ep, 0.1, restarted": (pjp.Restarted(ep(rate=0.1)), plain, 10),
    }


def run(
    dataset: Dataset,
    solver: pjp.AbstractSolver,
    loop: Loop,
    steps: int,
    batches: int,
    seed: int,
    skip: bool = True,
) -> tuple[float, list[float], float]:
    model = MLP(dataset.features, dataset.classes, (128, 128), skip=skip, key=jax.random.key(seed))

    def loss(model: MLP, x: Array, labels: Array) -> Array:
        return pjp.cross_entropy(jax.vmap(model)(x), labels)

    def take(model: Any, x: Any, labels: Any) -> Any:
        prepared = FeasibilityProblem.of(loss, model, x, labels)
        graph, arrays = prepared.graph_for(solver), prepared.arrays
        problem = make_problem(graph, solver, arrays)
        flat, unravel = ravel_pytree(solver.init(problem, arrays[0]))
        state = loop(lambda z: ravel_pytree(solver.step(problem, unravel(z))[0])[0], flat, steps)
        return prepared.restore(solver.read(problem, unravel(state), "shadow"))

    first = model
    examples = [batch(dataset, 256, seed=seed, step=i) for i in range(batches)]
    jitted = eqx.filter_jit(take)
    jax.block_until_ready(jax.tree.leaves(eqx.filter(jitted(model, *examples[0]), eqx.is_array)))
    began = time.perf_counter()
    for x, labels in examples:
        model = jitted(model, x, labels)
    jax.block_until_ready(jax.tree.leaves(eqx.filter(model, eqx.is_array)))
    spent = time.perf_counter() - began
    right = jnp.argmax(jax.vmap(model)(jnp.asarray(dataset.test_x)), -1) == jnp.asarray(dataset.test_y)
    moved = [
        float(jnp.linalg.norm(a.weight - b.weight) / jnp.linalg.norm(b.weight))
        for a, b in zip(model.layers, first.layers, strict=True)
    ]
    return float(jnp.mean(right)), moved, 1e3 * spent / batches


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", required=True, help="where the MNIST files lie")
    parser.add_argument("--batches", type=int, default=300)
    parser.add_argument("--steps", type=int, default=20, help="of ap and cp on each batch (default: 20)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dataset = load("mnist", options.data_dir)
    print("| solver | steps | test accuracy | first layer moved | last | ms per batch |")
    print("|---|---|---|---|---|---|")
    for name, (solver, loop, steps) in contestants(options.steps).items():
        accuracy, moved, spent = run(dataset, solver, loop, steps, options.batches, options.seed)
        figures = f"{accuracy:.2%} | {moved[0]:.3g} | {moved[-1]:.3g} | {spent:.1f}"
        print(f"| {name} | {steps} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
