"""Settings of every test: the CPU as eight devices, 64-bit types on, programs that compile quickly.

With `--as-users` instead what users have, and only the tests marked `as_users`. Set through `jax.config`
rather than the environment, so that a subprocess of a test starts as a user's would. With
`JAX_PLATFORMS=cuda,cpu` the tests of kernels run on a GPU.
"""

import gc
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
jax.config.update("jax_num_cpu_devices", 8)


def pytest_addoption(parser: pytest.Parser) -> None:
    help = "the tests marked as_users alone: 64-bit types off, XLA optimises"
    parser.addoption("--as-users", action="store_true", help=help)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = config.getoption("--as-users")
    given = [(item.get_closest_marker("as_users") is not None) == wanted for item in items]
    config.hook.pytest_deselected(items=[item for item, keep in zip(items, given, strict=True) if not keep])
    items[:] = [item for item, keep in zip(items, given, strict=True) if keep]


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As in a shell's background: what tests start and interrupt would ignore it, too.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    as_users = config.getoption("--as-users")
    jax.config.update("jax_enable_x64", not as_users)
    jax.config.update("jax_disable_most_optimizations", not as_users)
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None and config.getoption("numprocesses", None) is not None:
        return  # the workers run the tests
    folder = Path(tempfile.mkdtemp(prefix="pjax-prim-tests-"))
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    keep_programs(folder)
    if not as_users:
        start_backend()


def keep_programs(folder: Path) -> None:
    """A program that tests, or the subprocesses of tests, need again is not compiled again.

    JAX writes entries piece by piece: processes that write at the same time or are killed have another
    folder than this one, where a torn entry would be a warning and so an error.
    """
    jax.config.update("jax_compilation_cache_dir", str(folder / "own"))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "subprocesses")
    for name, value in (("min_compile_time_secs", 0), ("min_entry_size_bytes", -1)):
        jax.config.update(f"jax_persistent_cache_{name}", value)
        os.environ[f"JAX_PERSISTENT_CACHE_{name.upper()}"] = str(value)


def start_backend() -> None:
    """Starts XLA, which reads its flags then and never again: subprocesses do not inherit them.

    Without MLIR's fusion emitters and threads of its own the compiler takes half the time.
    """
    flags = ["--xla_cpu_parallel_codegen_split_count=1"]
    if jax.__version_info__ < (0, 12):
        flags.append("--xla_cpu_use_fusion_emitters=false")
    before = os.environ.get("XLA_FLAGS")
    os.environ["XLA_FLAGS"] = " ".join([*flags, *([before] if before else [])])
    jax.devices()
    if before is None:
        del os.environ["XLA_FLAGS"]
    else:
        os.environ["XLA_FLAGS"] = before


def pytest_collection_finish() -> None:
    """What imports and collection made stays: the collector of garbage need not walk it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


@pytest.fixture(autouse=True)
def optimisation(request: pytest.FixtureRequest) -> Iterator[None]:
    """XLA optimises less, to save minutes, but for tests marked `optimised`."""
    before = jax.config.read("jax_disable_most_optimizations")
    if request.node.get_closest_marker("optimised") is not None:
        jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


_tests = itertools.count(1)
_MAPS = Path("/proc/self/maps")


@pytest.fixture(autouse=True)
def free_executables() -> Iterator[None]:
    """Those of the CPU backend map memory: with traces and the like, 8,000 maps go with some 2 GiB."""
    yield
    if next(_tests) % 20 == 0 and _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > 8_000:
        jax.clear_caches()
        gc.collect()
