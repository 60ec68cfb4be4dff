"""A displacement beside the gradient of the same function: `python -m benchmarks.displacement [case ...]`.

For each network it prints the time of a step (median of 15, the two in turn), the CPU seconds of tracing
and compiling and the temporary memory, as ratios, and the direction beside the gradient: the cosine of the
whole tree, that of the worst leaf, and the ratio of lengths. Tracing and compiling is repeated, too (median
of 3). `--lam X` measures finite steps, `--checkpoint` networks that keep no activations.
"""

import argparse
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import pjax_prim as pjp

from .networks import cases, cpu_seconds, loss

REPEATS = 15
COMPILATIONS = 3


def checkpointed(model: Any, x: Any, labels: Any) -> Any:
    """`loss` with a checkpoint around each application of the network."""
    return jnp.mean(pjp.cross_entropy(jax.vmap(jax.checkpoint(lambda v: model(v)))(x), labels))


def measure(model: Any, x: Any, labels: Any, fn: Any, lam: float | None) -> dict[str, float]:
    """Ratios of a displacement to the gradient."""
    parameters, static = eqx.partition(model, eqx.is_array)
    transforms = {
        "gradient": eqx.filter_value_and_grad(fn),
        "displacement": pjp.value_and_displacement(fn, lam=lam),
    }
    compiled, memory, directions = {}, {}, {}
    seconds: dict[str, list[float]] = {name: [] for name in transforms}
    for name, transform in COMPILATIONS * list(transforms.items()):
        step = jax.jit(lambda p, x, y, t=transform: t(eqx.combine(p, static), x, y))
        start = cpu_seconds()
        compiled[name] = step.lower(parameters, x, labels).compile()
        seconds[name].append(cpu_seconds() - start)
    for name in transforms:
        memory[name] = compiled[name].memory_analysis().temp_size_in_bytes
        directions[name] = jax.tree.leaves(compiled[name](parameters, x, labels)[1])
    times: dict[str, list[float]] = {name: [] for name in transforms}
    for _ in range(REPEATS):
        for name, step in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(step(parameters, x, labels))
            times[name].append(time.perf_counter() - start)
    g, d = ([np.asarray(leaf, np.float64).ravel() for leaf in directions[name]] for name in transforms)
    whole = [np.concatenate(leaves) for leaves in (d, g)]
    pairs = [(a, b) for a, b in zip(d, g, strict=True) if np.linalg.norm(b) > 1e-6 * np.linalg.norm(whole[1])]
    ratio = lambda found: found["displacement"] / found["gradient"]  # noqa: E731
    return {
        "step": ratio({name: float(np.median(t)) for name, t in times.items()}),
        "trace + compile": ratio({name: float(np.median(t)) for name, t in seconds.items()}),
        "memory": ratio(memory),
        "cosine": _cosine(*whole),
        "worst leaf": min(_cosine(a, b) for a, b in pairs),
        "length": float(np.linalg.norm(whole[0]) / np.linalg.norm(whole[1])),
    }


def _cosine(a: Any, b: Any) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help="words that a case's name contains (default: all)")
    parser.add_argument("--lam", type=float, help="finite steps of the losses")
    parser.add_argument("--checkpoint", action="store_true", help="recompute activations")
    options = parser.parse_args()
    for name, case in cases().items():
        if options.cases and not any(word in name for word in options.cases):
            continue
        found = measure(*case, checkpointed if options.checkpoint else loss, options.lam)
        print(name, *(f"{key} {value:.2f}" for key, value in found.items()), sep="  ", flush=True)


if __name__ == "__main__":
    main()
