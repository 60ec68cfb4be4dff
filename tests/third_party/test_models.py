"""Models of other packages, and of Equinox's examples: their displacement has the gradient's direction.

Run by `pytest -m third_party tests/third_party`; rows whose packages are missing are skipped. The packages
and versions that were tried are listed in docs/equinox.md.
"""

import importlib
from collections.abc import Iterator

import equinox as eqx
import jax
import numpy as np
import pytest

import pjax_prim as pjp

from .registry import MODELS

for module in (
    "equinox_examples",
    "flows",
    "graphs",
    "language",
    "odes",
    "operators",
    "programs",
    "sequences",
    "vision",
):
    importlib.import_module(f".{module}", __package__)  # adds its rows

pytestmark = [pytest.mark.third_party, pytest.mark.filterwarnings("ignore")]

WHOLE = 0.99


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    """Types of 32 bits, as these packages are written for; some change JAX's settings when imported."""
    with jax.enable_x64(False):
        yield
    jax.config.update("jax_debug_nans", False)
    jax.config.update("jax_default_matmul_precision", None)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.real(np.vdot(a, b)) / (np.linalg.norm(a) * np.linalg.norm(b)))


@pytest.mark.parametrize("name", MODELS)
def test_direction(name: str) -> None:
    row = MODELS[name]
    for package in row.packages:
        try:
            importlib.import_module(package)
        except Exception as error:  # what a package raises on a JAX it was not written for
            pytest.skip(f"{package} cannot be imported: {error}")
    parameters, loss = row.make()
    jax.config.update("jax_debug_nans", False)
    value, direction = eqx.filter_jit(pjp.value_and_displacement(loss))(parameters)
    expected, gradient = eqx.filter_jit(eqx.filter_value_and_grad(loss))(parameters)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    named = jax.tree.leaves_with_path(gradient)
    gradients = [np.asarray(leaf, np.complex128).ravel() for _, leaf in named]
    directions = [np.asarray(leaf, np.complex128).ravel() for leaf in jax.tree.leaves(direction)]
    assert len(gradients) == len(directions)
    whole = [np.concatenate(leaves) for leaves in (directions, gradients)]
    assert np.isfinite(whole[1]).all() and np.any(whole[1]), "the gradient itself"
    assert cosine(*whole) >= WHOLE
    # Of leaves with a gradient below rounding (biases under a norm, of keys) the direction is noise.
    least = 1e-5 * np.linalg.norm(whole[1])
    for (path, _), d, g in zip(named, directions, gradients, strict=True):
        if np.linalg.norm(g) > least:
            assert cosine(d, g) >= row.worst, (jax.tree_util.keystr(path), cosine(d, g))
        else:
            assert np.linalg.norm(d) <= 10 * least, jax.tree_util.keystr(path)
