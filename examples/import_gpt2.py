"""GPT-2 in Equinox, with the parameters of its published file.

    python examples/import_gpt2.py model.safetensors        # of "gpt2" on the Hugging Face hub

The key map says where every array comes from. Published GPT-2 keeps the matrices of its layers the other way
round than `eqx.nn.Linear`, and those of query, key and value in one.
"""

import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from pjax_prim.checkpoint import Source, import_params


class Block(eqx.Module):
    norm_1: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    norm_2: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, width: int, heads: int, dtype, key):
        keys = jax.random.split(key, 3)
        biases = {f"use_{name}_bias": True for name in ("query", "key", "value", "output")}
        self.attention = eqx.nn.MultiheadAttention(heads, width, **biases, dtype=dtype, key=keys[0])
        self.up = eqx.nn.Linear(width, 4 * width, dtype=dtype, key=keys[1])
        self.down = eqx.nn.Linear(4 * width, width, dtype=dtype, key=keys[2])
        self.norm_1 = eqx.nn.LayerNorm(width, dtype=dtype)
        self.norm_2 = eqx.nn.LayerNorm(width, dtype=dtype)

    def __call__(self, x):
        y = jax.vmap(self.norm_1)(x)
        x = x + self.attention(y, y, y, mask=jnp.tril(jnp.ones((len(x), len(x)), bool)))
        y = jax.vmap(self.up)(jax.vmap(self.norm_2)(x))
        return x + jax.vmap(self.down)(jax.nn.gelu(y))


class GPT2(eqx.Module):
    """Logits of the next token, (length, classes), after each of some tokens, (length,)."""

    tokens: eqx.nn.Embedding
    positions: eqx.nn.Embedding
    blocks: tuple[Block, ...]
    norm: eqx.nn.LayerNorm

    def __init__(self, *, classes=50257, length=1024, width=768, heads=12, layers=12, dtype=jnp.float32, key):
        keys = jax.random.split(key, layers + 2)
        self.tokens = eqx.nn.Embedding(classes, width, dtype=dtype, key=keys[0])
        self.positions = eqx.nn.Embedding(length, width, dtype=dtype, key=keys[1])
        self.blocks = tuple(Block(width, heads, dtype, k) for k in keys[2:])
        self.norm = eqx.nn.LayerNorm(width, dtype=dtype)

    def __call__(self, tokens):
        x = self.tokens.weight[tokens] + self.positions.weight[: len(tokens)]
        for block in self.blocks:
            x = block(x)
        return jax.vmap(self.norm)(x) @ self.tokens.weight.T


def key_map(layers: int) -> dict[str, str | Source]:
    """The published keys by the paths of `GPT2`."""
    found: dict[str, str | Source] = {"tokens": "wte", "positions": "wpe", "norm": "ln_f"}
    for i in range(layers):
        here, there = f"blocks.{i}", f"h.{i}"
        found |= {f"{here}.norm_1": f"{there}.ln_1", f"{here}.norm_2": f"{there}.ln_2"}
        for n, name in enumerate(("query", "key", "value")):
            place = f"{here}.attention.{name}_proj"
            found[f"{place}.weight"] = Source(
                f"{there}.attn.c_attn.weight", lambda w, n=n: np.split(w, 3, axis=1)[n].T
            )
            found[f"{place}.bias"] = Source(f"{there}.attn.c_attn.bias", lambda b, n=n: np.split(b, 3)[n])
        pairs = {"attention.output_proj": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"}
        for ours, theirs in pairs.items():
            found[f"{here}.{ours}.weight"] = Source(f"{there}.{theirs}.weight", np.transpose)
            found[f"{here}.{ours}.bias"] = f"{there}.{theirs}.bias"
    return found


def masks(layers: int) -> list[str]:
    """Keys of the causal masks, which are no parameters."""
    return [f"h.{i}.attn.bias" for i in range(layers)]


if __name__ == "__main__":
    like = eqx.filter_eval_shape(GPT2, key=jax.random.key(0))  # no memory for what is replaced
    model = import_params(sys.argv[1], like, mapping=key_map(12), drop=masks(12))
    tokens = jnp.array([464, 3139, 286, 4881, 318])  # "The capital of France is"
    print(jax.lax.top_k(eqx.filter_jit(model)(tokens)[-1], 5))
