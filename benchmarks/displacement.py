"""A displacement beside the gradient of the same function: `python -m benchmarks.displacement [case ...]`.

For each network it prints the time of a step (median of 15, the two in turn), the CPU seconds of tracing
and compiling and the temporary memory, as ratios, and the direction beside the gradient: the cosine of the
whole tree, that of the worst leaf, and the ratio of lengths. Tracing and compiling is repeated, too (median
of 3). `--lam X` measures finite steps, `--checkpoint` networks that keep no activations.
"""

import argparse
import resource
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import pjax_prim as pjp

REPEATS = 15
COMPILATIONS = 3


class CNN(eqx.Module):
    """Equinox's example for MNIST."""

    layers: list[Any]

    def __init__(self, key: Any):
        keys = jax.random.split(key, 4)
        self.layers = [
            eqx.nn.Conv2d(1, 3, kernel_size=4, key=keys[0]),
            eqx.nn.MaxPool2d(kernel_size=2),
            jax.nn.relu,
            jnp.ravel,
            eqx.nn.Linear(1728, 512, key=keys[1]),
            jax.nn.sigmoid,
            eqx.nn.Linear(512, 64, key=keys[2]),
            jax.nn.relu,
            eqx.nn.Linear(64, 10, key=keys[3]),
        ]

    def __call__(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x


class GRU(eqx.Module):
    """The rows of an image, one after the other."""

    cell: eqx.nn.GRUCell
    out: eqx.nn.Linear

    def __init__(self, key: Any):
        self.cell, self.out = eqx.nn.GRUCell(28, 128, key=key), eqx.nn.Linear(128, 10, key=key)

    def __call__(self, x: Any) -> Any:
        return self.out(jax.lax.scan(lambda h, x: (self.cell(x, h), None), jnp.zeros(128), x[0])[0])


class Block(eqx.Module):
    """Attention and a multilayer perceptron behind layer norms."""

    norms: list[eqx.nn.LayerNorm]
    attention: eqx.nn.MultiheadAttention
    layers: list[eqx.nn.Linear]

    def __init__(self, width: int, key: Any):
        keys = jax.random.split(key, 3)
        self.norms = [eqx.nn.LayerNorm(width), eqx.nn.LayerNorm(width)]
        self.attention = eqx.nn.MultiheadAttention(4, width, key=keys[0])
        sizes = (width, 4 * width), (4 * width, width)
        self.layers = [eqx.nn.Linear(*size, key=k) for size, k in zip(sizes, keys[1:], strict=True)]

    def __call__(self, x: Any) -> Any:
        mask = jnp.tril(jnp.ones((len(x), len(x)), bool))
        h = jax.vmap(self.norms[0])(x)
        x = x + self.attention(h, h, h, mask)
        first, second = self.layers
        return x + jax.vmap(lambda v: second(jax.nn.gelu(first(v))))(jax.vmap(self.norms[1])(x))


class Transformer(eqx.Module):
    """Four blocks of width 64 over 64 positions."""

    embedding: eqx.nn.Embedding
    positions: Any
    blocks: list[Block]
    out: eqx.nn.Linear

    def __init__(self, key: Any):
        keys = jax.random.split(key, 7)
        self.embedding = eqx.nn.Embedding(65, 64, key=keys[0])
        self.positions = 0.02 * jax.random.normal(keys[1], (64, 64))
        self.out = eqx.nn.Linear(64, 65, key=keys[2])
        self.blocks = [Block(64, k) for k in keys[3:]]

    def __call__(self, tokens: Any) -> Any:
        x = jax.vmap(self.embedding)(tokens) + self.positions
        for block in self.blocks:
            x = block(x)
        return jax.vmap(self.out)(x)


def cases() -> dict[str, tuple[Any, Any, Any]]:
    """Network, inputs and labels."""
    keys = jax.random.split(jax.random.key(0), 4)
    images = jax.random.normal(keys[0], (256, 1, 28, 28))
    labels = jax.random.randint(keys[1], (256,), 0, 10)
    tokens = jax.random.randint(keys[2], (16, 64), 0, 65)
    mlp = eqx.nn.MLP(784, 10, 128, 2, activation=jax.nn.gelu, key=keys[3])
    return {
        "gelu MLP 784-128-128-10, batch 256": (mlp, images.reshape(256, -1), labels),
        "Equinox's MNIST CNN, batch 64": (CNN(keys[3]), images[:64], labels[:64]),
        "GRU 128, 28 steps, batch 256": (GRU(keys[3]), images, labels),
        "transformer, 4 blocks of width 64, batch 16": (Transformer(keys[3]), tokens, tokens),
    }


def loss(model: Any, x: Any, labels: Any) -> Any:
    return jnp.mean(pjp.cross_entropy(jax.vmap(model)(x), labels))


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


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
