"""A decoder with softmax attention that predicts the next token at every position."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray


class Block(eqx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), with causal attention and gelu."""

    attention_norm: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    mlp_norm: eqx.nn.LayerNorm
    expand: eqx.nn.Linear
    contract: eqx.nn.Linear

    def __init__(self, width: int, heads: int, *, dtype: Any = None, key: PRNGKeyArray):
        keys = jax.random.split(key, 3)
        self.attention_norm = eqx.nn.LayerNorm(width, dtype=dtype)
        self.attention = eqx.nn.MultiheadAttention(heads, width, dtype=dtype, key=keys[0])
        self.mlp_norm = eqx.nn.LayerNorm(width, dtype=dtype)
        self.expand = eqx.nn.Linear(width, 4 * width, dtype=dtype, key=keys[1])
        self.contract = eqx.nn.Linear(4 * width, width, dtype=dtype, key=keys[2])

    def __call__(self, x: Float[Array, "length width"]) -> Float[Array, "length width"]:
        """The sequence that the next block reads."""
        mask = jnp.tril(jnp.ones((len(x), len(x)), bool))
        normed = jax.vmap(self.attention_norm)(x)
        x = x + self.attention(normed, normed, normed, mask)
        normed = jax.vmap(self.mlp_norm)(x)
        return x + jax.vmap(self.contract)(jax.nn.gelu(jax.vmap(self.expand)(normed)))


class Transformer(eqx.Module):
    """Embeddings of tokens and positions, decoder blocks, a layer norm and a linear map.

    **Arguments:**

    - `tokens`: how many there are; an input is a sequence of integers in `range(tokens)`.
    - `length`: the longest sequence.
    - `width`: of the embeddings, a multiple of `heads`.
    - `blocks`: at least one.
    - `heads`: of each attention.
    - `dtype`: of the parameters; JAX's default float if left out.
    - `key`: for the initial parameters.
    """

    embedding: eqx.nn.Embedding
    positions: Float[Array, "length width"]
    blocks: tuple[Block, ...]
    norm: eqx.nn.LayerNorm
    output: eqx.nn.Linear

    def __init__(
        self,
        tokens: int,
        length: int,
        width: int = 64,
        blocks: int = 1,
        *,
        heads: int = 4,
        dtype: Any = None,
        key: PRNGKeyArray,
    ):
        if width % heads:
            raise ValueError(f"width: expected a multiple of heads, {heads}, given {width}")
        if blocks < 1:
            raise ValueError(f"blocks: expected at least 1, given {blocks}")
        first, second, *keys, last = jax.random.split(key, blocks + 3)
        self.embedding = eqx.nn.Embedding(tokens, width, dtype=dtype, key=first)
        self.positions = jax.random.normal(second, (length, width), dtype)
        self.blocks = tuple(Block(width, heads, dtype=dtype, key=k) for k in keys)
        self.norm = eqx.nn.LayerNorm(width, dtype=dtype)
        self.output = eqx.nn.Linear(width, tokens, dtype=dtype, key=last)

    def __call__(self, tokens: Int[Array, " length"]) -> Float[Array, "length tokens"]:
        """The logits of the next token after each position; use `jax.vmap` for a batch."""
        x = jax.vmap(self.embedding)(tokens) + self.positions[: len(tokens)]
        for block in self.blocks:
            x = block(x)
        return jax.vmap(self.output)(jax.vmap(self.norm)(x))
