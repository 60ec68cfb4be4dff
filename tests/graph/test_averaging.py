"""The way back of data: consensus is the mean over the uses that touch an element."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import pjax_prim as pjp
from pjax_prim.feasibility import FeasibilityProblem
from pjax_prim.problem import ExpandedProblem

V = jnp.array([1.0, 2.0, 3.0, 4.0])


def consensus(forward: Callable[[Array], Any], uses: Any, start: Array = V) -> np.ndarray:
    """Where a parameter goes if the copies in its uses become `uses`.

    Each result of `forward` is one use: its copies are held by one loss.
    """

    def fn(v: Array) -> list[Array]:
        return [pjp.equality(x, jnp.zeros(x.shape)) for x in jax.tree.leaves(forward(v))]

    prepared = FeasibilityProblem.of(fn, start)
    problem = ExpandedProblem(prepared.graph, prepared.graph.constants([], prepared.captured))
    state = list(problem.initial([start]))
    for index, use in zip(prepared.graph.losses, jax.tree.leaves(uses), strict=True):
        assert state[index][0].shape == use.shape
        state[index] = (use,)
    (result,) = problem.parameters(tuple(state), "shadow")
    return np.asarray(result)


def test_disjoint_slices_do_not_damp_each_other() -> None:
    found = consensus(lambda v: [v[:2], v[2:]], [jnp.array([10.0, 20]), jnp.array([30.0, 40])])
    np.testing.assert_array_equal(found, [10, 20, 30, 40])


def test_overlapping_slices_average_where_they_overlap() -> None:
    found = consensus(lambda v: [v[:3], v[1:]], [jnp.zeros(3), jnp.full(3, 6.0)])
    np.testing.assert_array_equal(found, [0, 3, 3, 6])


def test_repeats_average_and_unused_elements_stay() -> None:
    found = consensus(lambda v: v[jnp.array([0, 2, 2, 2])], jnp.array([5.0, 1, 2, 6]))
    np.testing.assert_array_equal(found, [5, 2, 3, 4])


def test_the_mean_is_over_consumers_of_each_consumers_mean() -> None:
    """A consumer with many copies counts as much as one with few."""
    found = consensus(lambda v: [jnp.broadcast_to(v, (3, 4)), v], [jnp.full((3, 4), 2.0), jnp.full(4, 6.0)])
    np.testing.assert_array_equal(found, [4, 4, 4, 4])


def test_both_halves_of_a_concatenation_read_one_value() -> None:
    found = consensus(lambda v: jnp.concatenate([v, v[::-1]]), jnp.arange(8.0))
    np.testing.assert_array_equal(found, [(0 + 7) / 2, (1 + 6) / 2, (2 + 5) / 2, (3 + 4) / 2])


def test_constants_beside_data_take_no_part() -> None:
    found = consensus(
        lambda v: jnp.where(jnp.array([True, False, True, False]), v, 9.0), jnp.array([5.0, 7, 8, 6])
    )
    np.testing.assert_array_equal(found, [5, 2, 8, 4])


def test_patches_average_by_count() -> None:
    windows = jnp.array([[0, 1], [1, 2], [2, 3]])
    found = consensus(lambda v: v[windows], jnp.array([[1.0, 2], [4, 5], [7, 8]]))
    np.testing.assert_array_equal(found, [1, 3, 6, 8])


MOVES: dict[str, Callable[[Array], Array]] = {
    "nothing": lambda v: v,
    "reshape": lambda v: v.reshape(2, 2).T,
    "reverse": lambda v: v[::-1],
    "stack": lambda v: jnp.stack([v, 2 + jnp.zeros(4)]),
    "tile": lambda v: jnp.tile(v, 3),
    "repeat": lambda v: jnp.repeat(v, 3),
    "pad": lambda v: jnp.pad(v, (1, 2)),
    "interior": lambda v: jax.lax.pad(v, 0.0, ((1, -1, 2),)),
    "roll": lambda v: jnp.roll(v, 1),
    "update": lambda v: jax.lax.dynamic_update_slice(v, v[:2], (1,)),
    "split": lambda v: jnp.split(v, [1])[1],
    "empty": lambda v: jnp.concatenate([v[:0], v]),
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES.keys())
def test_consensus_of_copies_that_agree_is_the_value(move: Callable[[Array], Array]) -> None:
    np.testing.assert_array_equal(consensus(move, move(V)), V)


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES.keys())
def test_consensus_is_the_least_squares_solution(move: Callable[[Array], Array]) -> None:
    """Nearest to the copies in use; by brute force with the movement's matrix."""
    uses = jax.random.normal(jax.random.key(0), move(V).shape)
    offset = move(jnp.zeros(4)).ravel()
    matrix = np.stack([move(row).ravel() - offset for row in jnp.eye(4)], -1)
    touched = matrix.any(0)
    expected = np.array(V)
    expected[touched] = np.linalg.lstsq(matrix[:, touched], uses.ravel() - offset, rcond=None)[0]
    np.testing.assert_allclose(consensus(move, uses), expected, rtol=1e-12, atol=1e-12)
