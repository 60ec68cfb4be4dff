"""What the table does not say of the projection onto the graph of logsumexp."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import pjax_prim as pjp

project = jax.jit(pjp.project_logsumexp)


def test_entries_of_minus_infinity_stay() -> None:
    a = jnp.array([0.3, -jnp.inf, -1.0, -jnp.inf, 0.5])
    for z in (-5.0, 1.1, 4.0, 9.0):
        moved = np.asarray(project(a, z))
        assert (moved[[1, 3]] == -np.inf).all()
        np.testing.assert_allclose(moved[[0, 2, 4]], project(a[jnp.array([0, 2, 4])], z), rtol=1e-12)
    assert (project(jnp.full(3, -jnp.inf), 1.0) == -jnp.inf).all()


def test_one_entry_goes_halfway() -> None:
    for a, z in ((1e-12, 3e-12), (2.0, -1e6), (-1e30, 1e30)):
        np.testing.assert_allclose(
            project(jnp.array([a], "float32"), z), np.float32([(a + z) / 2]), rtol=1e-6
        )


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tiny_residuals_keep_their_digits(sign: float, dtype: str) -> None:
    """To first order u = p r / (1 + |p|^2); of no entry does the logarithm of the sum round."""
    a = jnp.array([0.0, -120.0, -130.0], dtype)
    residual = sign * 1e-12
    moved = project(a, jnp.asarray(residual, dtype))
    np.testing.assert_allclose(moved[0], residual / 2, rtol=4 * float(jnp.finfo(dtype).eps))


def test_the_least_of_many_descents() -> None:
    """Which assume nothing of where minima are: near ties, far below and far above."""
    rng = np.random.default_rng(0)
    for row in range(24):
        a = np.round(2 * rng.standard_normal(4), row % 3)
        z = np.log(np.exp(a).sum()) + (-1) ** (row % 4 == 0) * rng.uniform(0, 9)

        def cost(x: np.ndarray, a: np.ndarray = a, z: float = z) -> float:
            return float(np.sum((x - a) ** 2) + (np.log(np.exp(x).sum()) - z) ** 2)

        starts = [a, *(a + rng.uniform(-1, 6) * (np.eye(4)[k]) for k in (0, 1, 2, 3, 0, 1, 2, 3))]
        least = min(minimize(cost, start, tol=1e-12).fun for start in starts)
        assert cost(np.asarray(project(jnp.asarray(a), z))) <= least * (1 + 1e-9) + 1e-14


def test_the_derivative_is_that_of_the_solution() -> None:
    a = jnp.array([0.4, -0.3, 1.2, 0.0])
    for z in (-3.0, 2.2, 7.0):
        jacobian = jax.jacobian(project, (0, 1))(a, z)
        step = 1e-5
        for i in range(4):
            move = step * jnp.eye(4)[i]
            slope = (project(a + move, z) - project(a - move, z)) / (2 * step)
            np.testing.assert_allclose(jacobian[0][:, i], slope, rtol=1e-6, atol=1e-8)
        slope = (project(a, z + step) - project(a, z - step)) / (2 * step)
        np.testing.assert_allclose(jacobian[1], slope, rtol=1e-6, atol=1e-8)
