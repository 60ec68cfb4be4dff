"""The one loop that all solvers run in."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ..finite import are_finite
from ..primitives import squared_norm
from ..problem import AbstractProblem, State
from ..settings import Setting
from .base import AbstractSolver


class Progress(NamedTuple):
    """Where an iteration stands.

    - `state`: the governing sequence; always finite, unless it was not to start with.
    - `summary`: the solver's, of `state`.
    - `steps`: taken so far.
    - `gaps`: for each node the distance between the shadows in the last step.
    - `change`: the distance that the parameters' own variables moved in the last step.
    - `first_nonfinite`: the first node with a non-finite value, or -1.
    """

    state: Any
    summary: Any
    steps: Int[Array, ""]
    gaps: Float[Array, " nodes"]
    change: Float[Array, ""]
    first_nonfinite: Int[Array, ""]

    @property
    def gap(self) -> Float[Array, ""]:
        """The overall gap."""
        return _root(jnp.sum(jnp.square(self.gaps)))


def iterate(
    solver: AbstractSolver[Any],
    problem: AbstractProblem,
    start: Callable[[], Any],
    max_steps: Int[Array, ""],
    tol: Setting | None,
) -> Progress:
    """Steps until the gap is at most `tol`, a value is not finite, or `max_steps` are taken.

    **Arguments:** `start()` gives the first state. It is called again after a non-finite value:
    the loop then repeats all but the last step, which needs no second copy of the state.
    """
    dtype = jnp.result_type(float)
    none = len(problem.graph.nodes)  # within the loops, instead of -1

    def step(progress: Progress) -> Progress:
        state, summary, squared = solver.advance(problem, progress.state, progress.summary)
        squared = squared.astype(dtype)
        return Progress(
            state,
            summary,
            progress.steps + 1,
            _root(squared),
            _change(problem, *map(solver.point, (state, progress.state))).astype(dtype),
            _first(~jnp.isfinite(squared)),
        )

    def unfinished(progress: Progress, limit: Array) -> Bool[Array, ""]:
        going = (progress.steps < limit) & (progress.first_nonfinite == none)
        return going & ~solver.terminate(progress.gap, tol)

    def run(limit: Array) -> Progress:
        state = start()
        progress = Progress(
            state,
            solver.summary(problem, state),
            jnp.zeros((), jnp.int32),
            jnp.full(len(problem.graph.nodes), jnp.inf, dtype),
            jnp.zeros((), dtype),
            _first(~are_finite(solver.point(state))),
        )
        return lax.while_loop(lambda p: unfinished(p, limit), step, progress)

    def attempt(carry: tuple[Array, Array, Array, Progress]) -> tuple[Array, Array, Array, Progress]:
        count, limit, bad, _ = carry
        progress = run(limit)
        bad = jnp.where(count == 0, progress.first_nonfinite, bad)
        return count + 1, progress.steps - 1, bad, progress

    def again(carry: tuple[Array, Array, Array, Progress]) -> Bool[Array, ""]:
        count, _, bad, _ = carry
        return (count == 0) | ((count == 1) & (bad < none))

    empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(run, max_steps))
    count = jnp.zeros((), jnp.int32)
    *_, bad, progress = lax.while_loop(again, attempt, (count, max_steps, empty.first_nonfinite, empty))
    return progress._replace(first_nonfinite=jnp.where(bad == none, -1, bad))


@jax.custom_jvp
def _root(squared: Array) -> Array:
    """The square root, whose derivative at zero counts as zero: what does not move has a distance too."""
    return jnp.sqrt(squared)


@_root.defjvp
def _derivative(squared: tuple[Array], change: tuple[Array]) -> tuple[Array, Array]:
    root = _root(*squared)
    return root, jnp.where(root == 0, 0, change[0] / jnp.where(root == 0, 1, 2 * root))


def _first(flags: Bool[Array, " n"]) -> Int[Array, ""]:
    """The index of the first true element, or their number."""
    count = flags.shape[0]
    return jnp.min(jnp.where(flags, jnp.arange(count, dtype=jnp.int32), count))


def _change(problem: AbstractProblem, new: State, old: State) -> Array:
    parameters = [index for index in problem.graph.parameters if index is not None]
    return _root(sum((squared_norm(new[i][0] - old[i][0]) for i in parameters), jnp.zeros(())))
