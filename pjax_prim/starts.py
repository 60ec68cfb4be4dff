"""`solve_starts`: one problem from many random starts at once."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .errors import ArgumentError
from .problem import State
from .solvers import AbstractSolver
from .solving import make_problem, problem_parts
from .transform import check_labels, prepare


@dataclass(frozen=True)
class Starts:
    """What `solve_starts` returns.

    - `params`: of all starts, with a leading axis: where solved those of the step that solved, else of the
      last step.
    - `solved`: (starts,), whether a start ended in a solution; `steps`: (starts,), how many it took.
    - `seconds`: of all steps together, without compilation.
    """

    params: Any
    solved: np.ndarray[Any, np.dtype[np.bool_]]
    steps: np.ndarray[Any, np.dtype[np.int64]]
    seconds: float

    @property
    def success_rate(self) -> float:
        """The share of starts that ended in a solution."""
        return float(self.solved.mean())

    @property
    def steps_per_solution(self) -> tuple[float, float]:
        """All steps, of failures too, over the number of solutions; and its standard error."""
        solutions = int(self.solved.sum())
        if not solutions:
            return math.inf, math.inf
        ratio = float(self.steps.sum()) / solutions
        spread = np.sqrt(np.sum(np.square(self.steps - ratio * self.solved)))  # of a ratio of means
        return ratio, float(spread) / solutions

    @property
    def seconds_per_solution(self) -> float:
        """Time over the number of solutions."""
        solutions = int(self.solved.sum())
        return self.seconds / solutions if solutions else math.inf


def solve_starts(
    fn: Callable[..., Any],
    make_params: Callable[[PRNGKeyArray], Any],
    *args: Any,
    key: PRNGKeyArray,
    starts: int,
    solver: AbstractSolver,
    max_steps: int,
    tol: float | None = None,
    is_solved: Callable[[Any], Bool[Array, ""]] | None = None,
    lanes: int = 256,
    chunk: int = 100,
    mesh: Mesh | None = None,
) -> Starts:
    """Solves one problem from many starts, each until its own gap is small or its steps are spent.

    `lanes` starts run at once, by `jax.vmap`. Every `chunk` steps those that ended give their lane to the
    next start, and once none are left the lanes are halved whenever half of them are idle.

    **Arguments:**

    - `fn`, `args`, `solver`, `max_steps`, `tol`: as in `solve`.
    - `make_params`: from a key to the parameters of a start.
    - `key`: split over the starts; the same key gives the same starts, whatever `lanes` and `mesh`.
    - `starts`: how many, at least 1.
    - `is_solved`: of parameters, whether they count as a solution before the gap is `tol`: a network that
      is to be exact is one as soon as its weights are. It is asked after every step.
    - `mesh`: one with an axis "data" divides the lanes over devices; no data go between them.

    **Returns:** `Starts`.

    **Errors:** those of `solve`.

    **Cost:** `lanes` steps at once, in memory too.
    """
    for name, value in (("starts", starts), ("lanes", lanes), ("chunk", chunk), ("max_steps", max_steps)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ArgumentError(f"{name}: expected an integer of at least 1, given {value!r}")
    if mesh is not None and "data" not in mesh.axis_names:
        raise ArgumentError(f'mesh: expected an axis "data", given {mesh.axis_names}')
    keys = jax.random.split(key, starts)
    prepared = prepare(fn, make_params(keys[0]), args)
    check_labels(prepared.graph, prepared.data)
    graph, arrays = problem_parts(prepared, solver)
    limit = max_steps

    def begin(key: PRNGKeyArray, data: Any) -> _Lane:
        parameters = prepare(fn, make_params(key), args).parameters
        problem = make_problem(graph, solver.form, ([], *data))
        state = solver.init(problem, parameters)
        return _Lane(state, parameters, jnp.zeros((), jnp.int32), jnp.zeros((), bool))

    def step(lane: _Lane, data: Any) -> _Lane:
        problem = make_problem(graph, solver.form, ([], *data))
        state, squared = solver.step(problem, lane.state)
        read = problem.parameters(state, "shadow")
        read = [old if new is None else new for new, old in zip(read, lane.parameters, strict=True)]
        solved = solver.terminate(jnp.sqrt(jnp.sum(squared)), tol)
        if is_solved is not None:
            solved = solved | is_solved(prepared.restore(read))
        going = ~lane.solved & (lane.steps < limit)
        # The state of a lane that ended goes on: nothing reads it, and choosing would cost a pass.
        parameters = [jnp.where(going, new, old) for new, old in zip(read, lane.parameters, strict=True)]
        return _Lane(state, parameters, lane.steps + going, lane.solved | (going & solved))

    def run(lanes: _Lane, data: Any) -> _Lane:
        return jax.lax.fori_loop(0, chunk, lambda _, x: jax.vmap(step, (0, None))(x, data), lanes)

    def refill(lanes: _Lane, free: Array, keys: Array, data: Any) -> _Lane:
        fresh = jax.vmap(begin, (0, None))(keys, data)
        return jax.tree.map(
            lambda new, old: jnp.where(free.reshape(-1, *[1] * (new.ndim - 1)), new, old), fresh, lanes
        )
