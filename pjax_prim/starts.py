"""`solve_starts`: one problem from many random starts at once."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from ._compat import is_jit_disabled
from .arguments import is_data, is_trained
from .errors import ArgumentError
from .explicit_axes import with_automatic_axes, without_mesh
from .feasibility import FeasibilityProblem
from .primitives._arguments import is_concrete, standard_promotion
from .problem import AbstractProblem
from .restricting import Restrictions, project_all
from .settings import Setting, check_count, operands
from .solvers import AbstractSolver
from .solving import check_arguments
from .stepping import Arrays, make_problem


@dataclass(frozen=True)
class Starts:
    """What `solve_starts` returns.

    - `params`: the parameters of all starts, with a leading axis: of a start that was solved those of the
      step that solved it, of another those of its last step.
    - `solved`: (starts,), whether a start ended in a solution; `steps`: (starts,), how many steps it took.
    - `seconds`: the time of all steps together, without compilation.
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
    tol: Setting | None = None,
    is_solved: Callable[[Any], Bool[Array, ""]] | None = None,
    lanes: int = 256,
    chunk: int = 100,
    mesh: Mesh | None = None,
    restrictions: Restrictions = None,
) -> Starts:
    """Solves one problem from many starts, each until its own gap is small or its steps are spent.

    `lanes` starts run at once, by `jax.vmap`. Every `chunk` steps those that ended give their lane to the
    next start, and once none are left the lanes are halved whenever half of them are idle.

    **Arguments:**

    - `fn`, `args`, `solver`, `max_steps`, `tol`, `restrictions`: as in `solve`.
    - `make_params`: takes a key to the parameters of a start. Arrays that are not trained are each start's
      own; what is no array is the same for all.
    - `key`: split over the starts; the same key gives the same starts, whatever `lanes` and `mesh`.
    - `starts`: how many, at least 1.
    - `is_solved`: says of parameters whether they count as a solution before the gap is `tol`: a network that
      is to be exact is one as soon as its weights are. It is asked after every step.
    - `mesh`: one with an axis "data" divides the lanes over devices; no data go between them.

    **Returns:** `Starts`.

    **Errors:** those of `solve`.

    **Cost:** `lanes` steps at once, in memory too.
    """
    if not callable(make_params):
        raise ArgumentError(f"make_params: expected a function of a key, given {make_params!r}")
    for name, value in (("starts", starts), ("lanes", lanes), ("chunk", chunk), ("max_steps", max_steps)):
        check_count(name, value, 1)
        if not is_concrete(value):
            raise ArgumentError(
                f"{name}: expected a known integer, given a traced one; use pjp.solve inside jit"
            )
    starts, lanes, chunk, max_steps = map(int, (starts, lanes, chunk, max_steps))
    if mesh is not None and "data" not in mesh.axis_names:
        raise ArgumentError(f'mesh: expected an axis "data", given {mesh.axis_names}')
    check_arguments(solver, max_steps, tol, "shadow")
    try:
        keys = jax.random.split(key, starts)
    except (TypeError, ValueError):
        raise ArgumentError(f"key: expected one of jax.random.key, given {key!r}") from None
    mesh = None if mesh is None else with_automatic_axes(mesh)
    with without_mesh((args, keys)) as (args, keys):
        return _solve_starts(
            fn, make_params, args, keys, starts, solver, max_steps, tol, is_solved, lanes, chunk, mesh,
            restrictions,
        )  # fmt: skip


def _solve_starts(
    fn: Callable[..., Any],
    make_params: Callable[[PRNGKeyArray], Any],
    args: tuple[Any, ...],
    keys: PRNGKeyArray,
    starts: int,
    solver: AbstractSolver,
    max_steps: int,
    tol: Setting | None,
    is_solved: Callable[[Any], Bool[Array, ""]] | None,
    lanes: int,
    chunk: int,
    mesh: Mesh | None,
    restrictions: Restrictions,
) -> Starts:
    solver, tol, chunk = operands(solver), operands(tol), min(chunk, max_steps)
    first = eqx.filter_jit(make_params)(_first(keys))
    prepared = FeasibilityProblem.of(fn, first, *args, restrictions=restrictions)
    prepared.check(solver)
    graph, (_, common, captured) = prepared.graph_for(solver), prepared.arrays
    untrained = len(_untrained(first))
    data = common[untrained:], captured

    def problem_of(untrained: list[Array], data: Any) -> AbstractProblem:
        common, captured = data
        arrays: Arrays = ([], [*untrained, *common], captured)
        return make_problem(graph, solver, arrays, None, prepared.restrictions)

    def begin(key: PRNGKeyArray, data: Any) -> _Lane:
        params = make_params(key)
        _check_static(first, params)
        own = FeasibilityProblem.of(fn, params, *args)
        fixed = own.data[:untrained]
        with standard_promotion():
            state = solver.init(problem_of(fixed, data), own.trained)
        return _Lane(state, own.trained, fixed, jnp.zeros((), jnp.int32), jnp.zeros((), bool))

    def restore(parameters: list[Array], untrained: list[Array]) -> Any:
        _, treedef = jax.tree.flatten(eqx.filter(first, _is_untrained))
        return eqx.combine(jax.tree.unflatten(treedef, untrained), prepared.restore(parameters))

    def step(lane: _Lane, data: Any) -> _Lane:
        problem = problem_of(lane.untrained, data)
        with standard_promotion():
            state, squared = solver.step(problem, lane.state)
            found = solver.read(problem, state, "shadow")
        read = [old if new is None else new for new, old in zip(found, lane.parameters, strict=True)]
        read = project_all(read, prepared.restrictions)
        solved = solver.terminate(jnp.sqrt(jnp.sum(squared)), tol)
        if is_solved is not None:
            solved = solved | is_solved(restore(read, lane.untrained))
        going = ~lane.solved & (lane.steps < max_steps)
        # The state of a lane that ended goes on: nothing reads it, and choosing would cost a pass.
        parameters = [jnp.where(going, new, old) for new, old in zip(read, lane.parameters, strict=True)]
        return _Lane(
            state,
            parameters,
            lane.untrained,
            lane.steps + going.astype(jnp.int32),
            lane.solved | (going & solved),
        )

    def run(lanes: _Lane, data: Any) -> _Lane:
        return jax.lax.fori_loop(0, chunk, lambda _, x: jax.vmap(step, (0, None))(x, data), lanes)

    def refill(lanes: _Lane, free: Bool[Array, " lanes"], keys: PRNGKeyArray, data: Any) -> _Lane:
        fresh = jax.vmap(begin, (0, None))(keys, data)
        return jax.tree.map(
            lambda new, old: jnp.where(free.reshape(-1, *[1] * (new.ndim - 1)), new, old), fresh, lanes
        )

    programs = _Programs(data, mesh)
    width = -(-min(lanes, starts) // programs.devices) * programs.devices
    owner = np.where(np.arange(width) < starts, np.arange(width), _NONE)
    begun = min(width, starts)
    ended = jax.tree.map(
        lambda x: np.zeros((starts, *x.shape), x.dtype),
        jax.eval_shape(begin, jax.eval_shape(_first, keys), data)._replace(state=()),
    )
    opened = perf_counter()
    state = programs(jax.vmap(begin, (0, None)), programs.keys(keys, owner))
    while True:
        state = programs(run, state)
        solved, steps = jax.device_get((state.solved, state.steps))
        over = (owner != _NONE) & (solved | (steps >= max_steps))
        if over.any():
            for whole, part in zip(
                jax.tree.leaves(ended), jax.tree.leaves(state._replace(state=())), strict=True
            ):
                whole[owner[over]] = jax.device_get(part)[over]
            owner[over] = _NONE
            free = np.flatnonzero(over)[: starts - begun]
            if free.size:
                owner[free] = np.arange(begun, begun + free.size)
                begun += free.size
                fresh = np.isin(np.arange(width), free)
                state = programs(refill, state, fresh, programs.keys(keys, owner))
        busy = np.flatnonzero(owner != _NONE)
        if not busy.size:
            break
        narrow = width
        while busy.size <= narrow // 2 and narrow // 2 % programs.devices == 0:
            narrow //= 2
        if begun == starts and narrow < width:
            kept = np.concatenate([busy, np.flatnonzero(owner == _NONE)])[:narrow]
            state = programs.select(state, kept)
            owner, width = owner[kept], narrow
    seconds = perf_counter() - opened - programs.compiling
    params = restore(*(list(map(jax.device_put, x)) for x in (ended.parameters, ended.untrained)))
    return Starts(params, ended.solved, ended.steps, seconds)


_NONE = -1
"""The owner of an idle lane."""


class _Lane(NamedTuple):
    """One start under way: its governing sequence, its last shadow's parameters, how far it is.

    `untrained`: its own arrays among the parameters that are not trained, as `make_params` gave them.
    """

    state: Any
    parameters: list[Array]
    untrained: list[Array]
    steps: Int[Array, ""]
    solved: Bool[Array, ""]


@jax.jit
def _first(keys: PRNGKeyArray) -> PRNGKeyArray:
    return keys[0]


def _is_untrained(leaf: Any) -> bool:
    return is_data(leaf) and not is_trained(leaf)


def _untrained(params: Any) -> list[Any]:
    """The arrays of parameters that are not trained, in the order in which a problem has them."""
    return jax.tree.leaves(eqx.filter(params, _is_untrained))


def _check_static(first: Any, other: Any) -> None:
    """What is no array is the same for all starts, which share one program."""

    def static(params: Any) -> dict[str, Any]:
        leaves = jtu.tree_leaves_with_path(params)
        return {jtu.keystr(path): leaf for path, leaf in leaves if not (is_data(leaf) or callable(leaf))}

    ours, theirs = static(first), static(other)
    if ours.keys() != theirs.keys():
        raise ArgumentError("make_params: expected one structure for all keys, given another for each")
    for path, value in ours.items():
        if value != theirs[path]:
            raise ArgumentError(
                f"make_params: expected what is no array to be the same for all keys, given {value!r} and "
                f"{theirs[path]!r} for params{path}; make it an array"
            )


class _Programs:
    """Compiles functions of lanes, once for each number of them, and runs them.

    **Arguments:** `data`, the last argument of all functions, common to all lanes; `mesh`, over whose axis
    "data" the lanes are divided.
    """

    def __init__(self, data: Any, mesh: Mesh | None):
        self.mesh = mesh
        self.devices = 1 if mesh is None else mesh.shape["data"]
        self.compiling = 0.0  # seconds
        self._data = data
        self._compiled: dict[Any, Any] = {}

    def place(self, array: Any) -> Array:
        """An array with an entry for each lane."""
        if self.mesh is None:
            return jax.device_put(array)
        return jax.device_put(array, NamedSharding(self.mesh, PartitionSpec("data")))

    def keys(self, keys: PRNGKeyArray, owner: np.ndarray[Any, np.dtype[np.int64]]) -> PRNGKeyArray:
        """The keys of the owners of lanes; any for an idle one."""
        return jax.jit(jnp.take, static_argnames="axis")(keys, jax.device_put(np.maximum(owner, 0)), axis=0)

    def select(self, lanes: _Lane, kept: np.ndarray[Any, np.dtype[np.int64]]) -> _Lane:
        """Some of the lanes."""
        chosen: _Lane = jax.tree.map(lambda x: self.place(jax.device_get(x)[kept]), lanes)
        return chosen

    def __call__(self, function: Callable[..., _Lane], *arguments: Any) -> _Lane:
        """`function(*arguments, data)`, lane by lane."""
        placed = jax.tree.map(self.place, arguments)
        if is_jit_disabled():
            return function(*placed, self._data)
        key = (function.__name__, len(jax.tree.leaves(placed)[0]))
        if key not in self._compiled:
            opened = perf_counter()
            if self.mesh is not None:
                lanes, common = PartitionSpec("data"), PartitionSpec()
                specs = (*(lanes for _ in arguments), common)
                # Structural equations are replayed as traced, without varying axes.
                function = jax.shard_map(
                    function, mesh=self.mesh, in_specs=specs, out_specs=lanes, check_vma=False
                )
            self._compiled[key] = jax.jit(function).lower(*placed, self._data).compile()
            self.compiling += perf_counter() - opened
        result: _Lane = jax.block_until_ready(self._compiled[key](*placed, self._data))
        return result
