"""Settings of every test: the CPU as eight devices, 64-bit types on.

Set through `jax.config` rather than the environment, so that a subprocess of a test starts
as a user's would. With `JAX_PLATFORMS=cuda,cpu` the tests of kernels run on a GPU.
"""

import itertools
import os
from collections.abc import Iterator

import jax
import pytest

jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)


@pytest.fixture(scope="module", autouse=True)
def optimisation(request: pytest.FixtureRequest) -> Iterator[None]:
    """XLA optimises less, to save minutes, but for the modules marked `optimised`."""
    optimised = request.node.get_closest_marker("optimised") is not None
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", not optimised)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


_tests = itertools.count(1)


@pytest.fixture(autouse=True)
def free_executables() -> Iterator[None]:
    """Those of the CPU backend map memory, and a process has 65,530 maps by default."""
    yield
    if next(_tests) % 100 == 0:
        jax.clear_caches()
