"""The kinds of networks of Equinox's published examples."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .registry import Problem, classification, key, model, normal, squared, tokens

nn = eqx.nn


@model("convolutional network for MNIST")
def cnn() -> Problem:
    k = jax.random.split(key(), 3)
    network = nn.Sequential(
        [
            nn.Conv2d(1, 3, 4, key=k[0]), nn.MaxPool2d(2), nn.Lambda(jax.nn.relu), nn.Lambda(jnp.ravel),
            nn.Linear(3 * 8 * 8, 16, key=k[1]), nn.Lambda(jax.nn.sigmoid), nn.Linear(16, 5, key=k[2]),
        ]
    )  # fmt: skip
    x = normal(4, 1, 12, 12)
    return network, lambda m: classification(jax.vmap(m)(x))


@model("recurrent classifier")
def rnn() -> Problem:
    network = nn.GRUCell(2, 8, key=key()), nn.Linear(8, 1, use_bias=False, key=key(1)), jnp.zeros(1)
    x = normal(6, 10, 2)

    def loss(m: Any) -> Array:
        def one(x: Array) -> Array:
            h = jax.lax.scan(lambda h, x: (m[0](x, h), None), jnp.zeros(8), x)[0]
            return jax.nn.sigmoid(m[1](h) + m[2])[0]

        y = (x[:, 0, 0] > 0).astype(x.dtype)
        p = jax.vmap(one)(x)
        return -jnp.mean(y * jnp.log(p) + (1 - y) * jnp.log(1 - p))

    return network, loss


class Mixer(eqx.Module):
    """Patches mixed along both axes, with the time of diffusion as one more channel."""

    into: nn.Conv2d
    out: nn.ConvTranspose2d
    blocks: list[Any]

    def __init__(self) -> None:
        k = jax.random.split(key(), 6)
        self.into, self.out = nn.Conv2d(2, 8, 4, 4, key=k[0]), nn.ConvTranspose2d(8, 1, 4, 4, key=k[1])
        self.blocks = [
            (nn.MLP(4, 4, 8, 1, key=a), nn.MLP(8, 8, 8, 1, key=b), nn.LayerNorm((8, 4)), nn.LayerNorm((4, 8)))
            for a, b in (k[2:4], k[4:])
        ]

    def __call__(self, t: Array, y: Array) -> Array:
        y = jnp.concatenate([y, jnp.broadcast_to(t, (1, *y.shape[1:]))])
        y = self.into(y).reshape(8, 4)
        for patches, hidden, first, second in self.blocks:
            y = y + jax.vmap(patches)(first(y))
            y = (y.T + jax.vmap(hidden)(second(y.T))).T
        return self.out(y.reshape(8, 2, 2))


@model("score-based diffusion with an MLP mixer")
def diffusion() -> Problem:
    x, noise, t = normal(4, 1, 8, 8), normal(4, 1, 8, 8, seed=5), jnp.array([0.2, 1.0, 3.0, 8.0])

    def loss(m: Any) -> Array:
        def one(x: Array, noise: Array, t: Array) -> Array:
            scale = jnp.sqrt(1 - jnp.exp(-t))
            moved = x * jnp.exp(-0.5 * t) + scale * noise
            return (1 - jnp.exp(-t)) * jnp.mean((m(t, moved) + noise / scale) ** 2)

        return jnp.mean(jax.vmap(one)(x, noise, t))

    return Mixer(), loss


class Block(eqx.Module):
    """Attention and a multilayer perceptron, with dropout."""

    attention: nn.MultiheadAttention
    norms: tuple[nn.LayerNorm, nn.LayerNorm]
    mlp: nn.MLP
    dropout: nn.Dropout

    def __init__(self, width: int, seed: int):
        k = jax.random.split(key(seed), 2)
        self.attention = nn.MultiheadAttention(2, width, use_query_bias=True, use_output_bias=True, key=k[0])
        self.norms = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.MLP(width, width, 2 * width, 1, jax.nn.gelu, key=k[1])
        self.dropout = nn.Dropout(0.1)

    def __call__(self, x: Array, mask: Array | None, first: bool, k: Array) -> Array:
        a, b = self.norms
        h = jax.vmap(a)(x) if first else x
        x = x + self.dropout(self.attention(h, h, h, mask), key=k)
        x = x if first else jax.vmap(a)(x)
        x = x + jax.vmap(self.mlp)(jax.vmap(b)(x) if first else x)
        return x if first else jax.vmap(b)(x)


@model("vision transformer with dropout")
def vision_transformer() -> Problem:
    blocks = [Block(8, seed) for seed in (1, 2)]
    network = (
        nn.Linear(16, 8, key=key()),
        0.1 * normal(5, 8),
        normal(1, 8),
        blocks,
        nn.Linear(8, 5, key=key(3)),
    )
    x = normal(3, 1, 8, 8)

    def loss(m: Any) -> Array:
        into, positions, token, blocks, out = m

        def one(x: Array, k: Array) -> Array:
            patches = x.reshape(2, 4, 2, 4).transpose(0, 2, 1, 3).reshape(4, 16)
            h = jnp.concatenate([token, jax.vmap(into)(patches)]) + positions
            for block, dropout in zip(blocks, jax.random.split(k, 2), strict=True):
                h = block(h, None, True, dropout)
            return out(h[0])

        return classification(jax.vmap(one)(x, jax.random.split(key(6), 3)))

    return network, loss


@model("BERT")
def bert() -> Problem:
    blocks = [Block(8, seed) for seed in (1, 2)]
    tables = [nn.Embedding(n, 8, key=key(n)) for n in (20, 2, 10)]
    network = tables, nn.LayerNorm(8), blocks, nn.Linear(8, 8, key=key()), nn.Linear(8, 2, key=key(1))
    ids = tokens(20, 3, 10).at[:, 8:].set(0)

    def loss(m: Any) -> Array:
        (words, kinds, places), norm, blocks, pooler, out = m

        def one(ids: Array, k: Array) -> Array:
            position = jnp.arange(10)
            h = jax.vmap(words)(ids) + jax.vmap(kinds)(position // 5) + jax.vmap(places)(position)
            h, mask = jax.vmap(norm)(h), jnp.outer(ids > 0, ids > 0)
            for block, dropout in zip(blocks, jax.random.split(k, 2), strict=True):
                h = block(h, mask, False, dropout)
            return out(jnp.tanh(pooler(h[0])))

        return classification(jax.vmap(one)(ids, jax.random.split(key(6), 3)))

    return network, loss


class UNet(eqx.Module):
    """Two levels, with group norms and a skip connection."""

    layers: dict[str, Any]

    def __init__(self) -> None:
        k = jax.random.split(key(), 5)
        self.layers = {
            "into": nn.Conv2d(1, 4, 3, padding=1, key=k[0]),
            "down": nn.Conv2d(4, 8, 3, 2, 1, key=k[1]),
            "middle": nn.Conv2d(8, 8, 3, padding=1, groups=4, key=k[2]),
            "up": nn.ConvTranspose2d(8, 4, 2, 2, key=k[3]),
            "out": nn.Conv2d(8, 1, 1, key=k[4]),
            "norms": [nn.GroupNorm(2, 4), nn.GroupNorm(4, 8)],
        }

    def __call__(self, x: Array) -> Array:
        p = self.layers
        first = jax.nn.silu(p["norms"][0](p["into"](x)))
        h = jax.nn.silu(p["norms"][1](p["down"](first)))
        h = p["up"](h + p["middle"](h))
        return p["out"](jnp.concatenate([first, h]))


@model("U-Net")
def unet() -> Problem:
    x = normal(2, 1, 8, 8)
    return UNet(), lambda m: squared(jax.vmap(m)(x))


class Critic(eqx.Module):
    """A discriminator with batch and spectral norms."""

    layers: nn.Sequential

    def __init__(self) -> None:
        k = jax.random.split(key(), 4)
        self.layers = nn.Sequential(
            [
                nn.SpectralNorm(nn.Conv2d(1, 4, 4, 2, 1, key=k[0]), "weight", key=k[1]),
                nn.Lambda(lambda x: jax.nn.leaky_relu(x, 0.2)),
                nn.Conv2d(4, 8, 4, 2, 1, use_bias=False, key=k[2]),
                nn.BatchNorm(8, "batch", mode="batch"),
                nn.Lambda(jnp.ravel),
                nn.Linear(32, 1, key=k[3]),
            ]
        )

    def __call__(self, x: Array, state: nn.State) -> Any:
        return self.layers(x, state)


def mapped(module: Any, x: Array, state: nn.State) -> Array:
    out, _ = jax.vmap(module, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)
    return out


@model("stateful layers (BatchNorm, SpectralNorm)")
def stateful() -> Problem:
    network, state = nn.make_with_state(Critic)()
    x = normal(6, 1, 8, 8)
    return network, lambda m: jnp.mean(jax.nn.softplus(mapped(m, x, state)[:, 0] * jnp.array([1, -1] * 3)))


@model("generator against a discriminator")
def gan() -> Problem:
    critic, state = nn.make_with_state(Critic)()
    network = nn.MLP(4, 64, 16, 1, jax.nn.relu, jnp.tanh, key=key())
    z = normal(6, 4)

    def loss(m: Any) -> Array:
        return jnp.mean(jax.nn.softplus(-mapped(critic, jax.vmap(m)(z).reshape(6, 1, 8, 8), state)[:, 0]))

    return network, loss


@model("frozen and shared layers")
def shared() -> Problem:
    embedding, head = nn.Embedding(12, 8, key=key()), nn.Linear(8, 12, use_bias=False, key=key(1))
    network = nn.Shared((embedding, head), lambda m: m[1].weight, lambda m: m[0].weight)
    x = tokens(12, 9)

    def loss(m: Any) -> Array:
        embedding, head = m()
        return classification(jax.vmap(lambda x: head(jnp.tanh(embedding(x))))(x))

    return network, loss
