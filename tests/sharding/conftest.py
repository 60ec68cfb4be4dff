"""These tests compile many small steps: where only values count, XLA optimises them less."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True)
def quick_compilation(request: pytest.FixtureRequest) -> Iterator[None]:
    before = jax.config.read("jax_disable_most_optimizations")
    measured = request.module.__name__.endswith(("communication", "stage"))
    jax.config.update("jax_disable_most_optimizations", not measured)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
