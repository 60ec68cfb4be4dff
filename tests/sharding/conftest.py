"""These tests compile many small steps: where only values count, XLA optimises them less."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True)
def quick_compilation(request: pytest.FixtureRequest) -> Iterator[None]:
    before = jax.config.read("jax_disable_most_optimizations")
    reads_programs = request.module.__name__.endswith(("communication", "stage"))
    jax.config.update("jax_disable_most_optimizations", not reads_programs)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
