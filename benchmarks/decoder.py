"""A task: a decoder on random tokens, to compile and to time. `pjax-prim aot benchmarks/decoder.py ...`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import pjax_prim as pjp
from pjax_prim.models import Transformer
from pjax_prim.models.transformer import Remat
from pjax_prim.training import Task


def task(
    width: int = 4096,
    blocks: int = 32,
    heads: int = 32,
    groups: int = 8,
    inner: int = 14336,
    length: int = 4096,
    vocabulary: int = 128256,
    batch_size: int = 8,
    remat: Remat = "attention",
    attention_block: int | None = 512,
) -> Task:
    """A decoder on random tokens; by default one of 8 billion parameters.

    Args:
        width: of the model.
        blocks: how many.
        heads: of an attention.
        groups: of heads with keys and values in common.
        inner: width of the gated mlp.
        length: of a sequence.
        vocabulary: tokens there are.
        batch_size: sequences in a batch.
        remat: what a derivative computes once more.
        attention_block: queries that are taken at a time.
    """

    def model(key: jax.Array) -> Transformer:
        return Transformer(
            vocabulary, length, width, blocks, heads=heads, groups=groups, inner=inner, positions="rotary",
            norm="rms", gated=True, bias=False, remat=remat, attention_block=attention_block,
            dtype=jnp.float32, key=key,
        )  # fmt: skip

    def loss(model: Transformer, batch: Any, key: jax.Array | None) -> Any:
        tokens, targets = batch
        return pjp.cross_entropy(jax.vmap(model)(tokens), targets)

    tokens = np.random.default_rng(0).integers(0, vocabulary, (2, batch_size, length)).astype(np.int32)
    return Task(model=model, loss=loss, train=[tuple(tokens)], name="decoder")
