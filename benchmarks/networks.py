"""Networks that a user brings, as benchmarks take them: with inputs, labels and a loss."""

import resource
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

import pjax_prim as pjp


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
    flat = images.reshape(256, -1)

    def mlp(activation: Any) -> eqx.nn.MLP:
        return eqx.nn.MLP(784, 10, 128, 2, activation=activation, key=keys[3])

    return {
        "relu MLP 784-128-128-10, batch 256": (mlp(jax.nn.relu), flat, labels),
        "gelu MLP 784-128-128-10, batch 256": (mlp(jax.nn.gelu), flat, labels),
        "Equinox's MNIST CNN, batch 64": (CNN(keys[3]), images[:64], labels[:64]),
        "GRU 128, 28 steps, batch 256": (GRU(keys[3]), images, labels),
        "transformer, 4 blocks of width 64, batch 16": (Transformer(keys[3]), tokens, tokens),
    }


def loss(model: Any, x: Any, labels: Any) -> Any:
    return jnp.mean(pjp.cross_entropy(jax.vmap(model)(x), labels))


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
