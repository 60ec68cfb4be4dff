"""Causal attention that never holds more of its weights than a block of queries needs, and rotary
positions."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..primitives._arguments import compute_dtype


def causal_attention(
    query: Float[Array, "length heads size"],
    key: Float[Array, "length groups size"],
    value: Float[Array, "length groups size"],
    block: int | None = None,
) -> Float[Array, "length heads size"]:
    """softmax(q k / sqrt(size)) v for each head, over the positions up to its own.

    **Arguments:** each group of keys and values serves as many heads, the first heads the first group;
    `block`: so many queries are taken at a time, each with the keys before it, all at once if left out.

    **Returns:** in the dtype of `query`; softmax is taken in at least 32 bits.

    **Cost:** 2 length^2 size heads operations with one block, towards half of that with many. With blocks, a
    derivative keeps none of their weights: memory is block x length for each head, and the products of
    queries and keys are computed once more.
    """
    length, heads, size = query.shape
    groups = key.shape[1]
    dtype = compute_dtype(query.dtype)
    query = (query / math.sqrt(size)).reshape(length, groups, heads // groups, size)

    def attend(query: Array, key: Array, value: Array) -> Array:
        rows, columns = len(query), len(key)
        logits = jnp.einsum("sgrd,Sgd->grsS", query, key, preferred_element_type=dtype)
        mask = jnp.tril(jnp.ones((rows, columns), bool), columns - rows)
        logits = jnp.where(mask, logits, jnp.finfo(dtype).min)
        weights = jax.nn.softmax(logits).astype(query.dtype)
        return jnp.einsum("grsS,Sgd->sgrd", weights, value)

    if block is None or block >= length:
        return attend(query, key, value).reshape(length, heads, size)
    ends = [*range(block, length, block), length]
    attended = [
        jax.checkpoint(attend)(query[start:end], key[:end], value[:end])
        for start, end in zip([0, *ends], ends, strict=False)
    ]
    return jnp.concatenate(attended).reshape(length, heads, size)


def rotated(
    x: Float[Array, "length heads size"], base: float = 10_000.0
) -> Float[Array, "length heads size"]:
    """Rotary positions (arXiv 2104.09864): pairs of numbers, one of each half, turned by angles that grow
    with the position, the first pair by 1 each time and the last by almost 1 / `base`."""
    half = x.shape[-1] // 2
    speeds = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = jnp.arange(len(x), dtype=jnp.float32)[:, None, None] * speeds
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)
