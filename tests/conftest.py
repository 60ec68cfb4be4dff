"""Settings of every test: the CPU as eight devices, 64-bit types on.

Set through `jax.config` rather than the environment, so that a subprocess of a test starts
as a user's would.
"""

from collections.abc import Iterator

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)


@pytest.fixture(scope="module")
def quick_compilation() -> Iterator[None]:
    """XLA optimises less, for modules that compile many small solves."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module", autouse=True)
def clear_compiled() -> Iterator[None]:
    """Every executable of the CPU backend maps memory, and a process has 65,530 maps by default."""
    yield
    jax.clear_caches()
