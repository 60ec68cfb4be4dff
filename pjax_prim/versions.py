"""What a bug report says of the machine: versions, devices, and settings of JAX that change results."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import jax

PACKAGES = (
    "pjax-prim", "jax", "jaxlib", "libtpu", "equinox", "jaxtyping", "numpy", "optax", "orbax-checkpoint",
    "grain", "tyro",
)  # fmt: skip
OPTIONS = (
    "enable_x64", "default_matmul_precision", "numpy_dtype_promotion", "numpy_rank_promotion", "disable_jit",
    "debug_nans", "use_shardy_partitioner",
)  # fmt: skip
VARIABLES = ("JAX_PLATFORMS", "XLA_FLAGS")


def versions() -> dict[str, str]:
    """Versions, devices and settings by name, each as text; packages that are not installed are left out."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    kinds: dict[str, int] = {}
    for device in jax.devices():
        kind = f"{device.platform} ({device.device_kind})"
        kinds[kind] = kinds.get(kind, 0) + 1
    found["devices"] = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    found["processes"] = str(jax.process_count())
    found |= {f"jax_{name}": str(getattr(jax.config, f"jax_{name}")) for name in OPTIONS}
    return found | {name: os.environ[name] for name in VARIABLES if name in os.environ}


def show_versions() -> None:
    """Prints what a bug report should say: versions, devices, and the settings of JAX that change results.

    It starts JAX's backend if none has been started. `FeasibilityProblem.save` writes the same facts beside
    a problem.
    """
    found = versions()
    width = max(map(len, found))
    print("\n".join(f"{name:{width}}  {text}" for name, text in found.items()))
