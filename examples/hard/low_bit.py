"""A language model of characters with ternary weights, or with binary activations.

    pjax-prim train examples/hard/low_bit.py --data-dir DIR        # DIR holds one .txt file
    pjax-prim train examples/hard/low_bit.py --data-dir DIR --weights float --activations binary

nanoGPT's small model and its recipe (`pjax-prim train --data nanogpt`). Every matrix of a block is -s, 0
or s, with a scale s of its own, the mean of its absolute weights (arXiv 2402.17764); activations of an
mlp are -1 or 1.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from pjax_prim.models import Transformer
from pjax_prim.tasks import nanogpt
from pjax_prim.training import Task, TrainConfig

MATRICES = ("query", "key", "value", "project", "expand", "contract")
WIDTH, BLOCKS, HEADS = 128, 4, 4
Weights = Literal["ternary", "float"]
Activations = Literal["binary", "gelu"]


def ternary(weight: Float[Array, "... rows columns"], hard: Callable[[Array], Array] = jnp.round) -> Array:
    """Each matrix with its entries rounded to -s, 0 and s, s the mean of their absolute values."""
    scale = jnp.mean(jnp.abs(weight), (-2, -1), keepdims=True)
    return scale * hard(jnp.clip(weight / scale, -1, 1))


class LowBit(eqx.Module):
    """A transformer whose blocks use ternary matrices."""

    network: Transformer
    weights: Weights = eqx.field(static=True)

    def __call__(
        self, tokens: Int[Array, " length"], hard: Callable[[Array], Array] = jnp.round
    ) -> Float[Array, "length tokens"]:
        """The logits of the next character after each position."""
        return self.used(hard)(tokens)

    def used(self, hard: Callable[[Array], Array] = jnp.round) -> Transformer:
        """The network with the weights that it computes with."""
        if self.weights == "float":
            return self.network

        def matrices(network: Transformer) -> list[Array]:
            return [getattr(network.blocks, name).weight for name in MATRICES]

        return eqx.tree_at(matrices, self.network, [ternary(w, hard) for w in matrices(self.network)])


def network(
    characters: int,
    length: int,
    weights: Weights = "ternary",
    activations: Activations | Callable[[Array], Array] = "gelu",
    *,
    key: PRNGKeyArray,
) -> LowBit:
    """The model with its initial float32 parameters."""
    activation = {"binary": jnp.sign, "gelu": jax.nn.gelu}.get(activations, activations)
    made = Transformer(
        characters, length, WIDTH, BLOCKS, heads=HEADS, activation=activation, dtype=jnp.float32, key=key
    )
    return LowBit(made, weights)


def task(
    data_dir: Path | None = None,
    length: int = 64,
    held_out: float = 0.1,
    weights: Weights = "ternary",
    activations: Activations = "gelu",
) -> Task:
    """nanoGPT's small model of characters in few bits.

    Args:
        data_dir: the folder of the one .txt file.
        length: characters in an example.
        held_out: the share of the text, at its end, that is for testing.
        weights: of the matrices in blocks.
        activations: of the mlp in blocks.
    """
    made = nanogpt.task(data_dir, length, held_out)
    characters = eqx.filter_eval_shape(made.model, jax.random.key(0)).embedding.weight.shape[0]
    return replace(
        made,
        name=f"low_bit, {weights} weights, {activations} activations",
        model=lambda key: network(characters, length, weights, activations, key=key),
    )


def train_config(solver: Any) -> TrainConfig:
    """nanoGPT's recipe."""
    return nanogpt.train_config(solver)
