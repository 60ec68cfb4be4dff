"""A decoder with softmax attention that predicts the next token at every position, from small ones to those
that pods train."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..primitives._arguments import compute_dtype
from .attention import causal_attention, rotated

ATTENDED = "attended"
"""The name, in programs, of what an attention results in."""

REMAT: dict[str, Any] = {
    "none": None,
    "products": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(ATTENDED),
    ),
    "attention": jax.checkpoint_policies.save_only_these_names(ATTENDED),
    "all": jax.checkpoint_policies.nothing_saveable,
}
"""What of a block is computed once more on the way back: none of it; all but products with parameters and
attentions; all but attentions; all."""

Positions = Literal["learned", "rotary"]
Norm = Literal["layer", "rms"]
Remat = Literal["none", "products", "attention", "all"]

_NORMS: dict[str, Callable[..., Any]] = {
    "layer": eqx.nn.LayerNorm,
    "rms": lambda width, dtype: eqx.nn.RMSNorm(width, use_bias=False, dtype=dtype),
}


class Block(eqx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), with causal attention and an activation, or silu where
    it is gated. Arguments as for `Transformer`."""

    attention_norm: Any
    query: eqx.nn.Linear
    key: eqx.nn.Linear
    value: eqx.nn.Linear
    project: eqx.nn.Linear
    mlp_norm: Any
    gate: eqx.nn.Linear | None
    expand: eqx.nn.Linear
    contract: eqx.nn.Linear
    heads: int = eqx.field(static=True)
    groups: int = eqx.field(static=True)
    turns: bool = eqx.field(static=True)
    attention_block: int | None = eqx.field(static=True)
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        groups: int,
        inner: int,
        positions: Positions,
        norm: Norm,
        gated: bool,
        bias: bool,
        attention_block: int | None,
        activation: Callable[[Array], Array],
        dtype: Any,
        key: PRNGKeyArray,
    ):
        keys = jax.random.split(key, 7)

        def linear(number: int, features: int, results: int, bias: bool = False) -> eqx.nn.Linear:
            return eqx.nn.Linear(features, results, use_bias=bias, dtype=dtype, key=keys[number])

        size = width // heads
        self.attention_norm = _NORMS[norm](width, dtype=dtype)
        self.query = linear(0, width, width)
        self.key = linear(1, width, groups * size)
        self.value = linear(2, width, groups * size)
        self.project = linear(3, width, width)
        self.mlp_norm = _NORMS[norm](width, dtype=dtype)
        self.gate = linear(4, width, inner, bias) if gated else None
        self.expand = linear(5, width, inner, bias)
        self.contract = linear(6, inner, width, bias)
        self.heads, self.groups = heads, groups
        self.turns = positions == "rotary"
        self.attention_block = attention_block
        self.activation = activation

    def __call__(self, x: Float[Array, "length width"]) -> Float[Array, "length width"]:
        """The sequence that the next block reads."""
        x = x + self.attention(jax.vmap(self.attention_norm)(x))
        normed = jax.vmap(self.mlp_norm)(x)
        expanded = jax.vmap(self.expand)(normed)
        if self.gate is None:
            inner = self.activation(expanded)
        else:
            inner = jax.nn.silu(jax.vmap(self.gate)(normed)) * expanded
        return x + jax.vmap(self.contract)(inner)

    def attention(self, x: Float[Array, "length width"]) -> Float[Array, "length width"]:
        """What a position makes of those up to it."""
        query, key, value = (
            jax.vmap(layer)(x).reshape(len(x), count, -1)
            for layer, count in (
                (self.query, self.heads),
                (self.key, self.groups),
                (self.value, self.groups),
            )
        )
        if self.turns:
            query, key = rotated(query), rotated(key)
        attended = causal_attention(query, key, value, self.attention_block)
        return jax.vmap(self.project)(checkpoint_name(attended.reshape(len(x), -1), ATTENDED))


class Transformer(eqx.Module):
    """Embeddings of tokens, decoder blocks, a norm and a linear map.

    The blocks are one, whose arrays have the blocks along their first axis, and a loop over it: the program
    is as long for a hundred of them as for one, and on a mesh with `fsdp` one block's arrays are gathered at
    a time.

    **Arguments:**

    - `tokens`: the number of different tokens; an input is a sequence of integers in `range(tokens)`.
    - `length`: the longest sequence.
    - `width`: the width of the embeddings, a multiple of `heads`.
    - `blocks`: the number of blocks, at least one.
    - `heads`: the heads of each attention; `groups` of them, as many if left out, have keys and values in
      common (grouped queries, arXiv 2305.13245).
    - `inner`: the width between the two maps of a block's mlp; four times `width` if left out.
    - `positions`: "learned", added to embeddings, or "rotary".
    - `norm`: the kind of norm, "layer" or "rms" (arXiv 1910.07467).
    - `activation`: the function of arrays in an mlp down(activation(up(x))).
    - `gated`: the mlp is down(silu(gate(x)) * up(x)) (arXiv 2002.05202), which has no `activation`.
    - `bias`: whether the linear maps have a bias, except for those of attentions.
    - `tied`: the output map is the embedding, whose rows are then of length about one, and about
      sqrt(width) where they are read.
    - `remat`: a key of `REMAT`, what a derivative computes once more in place of keeping it.
    - `attention_block`: see `causal_attention`.
    - `dtype`: the dtype of the parameters; JAX's default float if left out.
    - `key`: the key of the initial parameters.

    **Errors:** `ValueError` for sizes that do not fit and names that are none.
    """

    embedding: eqx.nn.Embedding
    positions: Float[Array, "length width"] | None
    blocks: Block
    norm: Any
    output: eqx.nn.Linear | None
    remat: Remat = eqx.field(static=True)

    def __init__(
        self,
        tokens: int,
        length: int,
        width: int = 64,
        blocks: int = 1,
        *,
        heads: int = 4,
        groups: int | None = None,
        inner: int | None = None,
        positions: Positions = "learned",
        norm: Norm = "layer",
        activation: Callable[[Array], Array] = jax.nn.gelu,
        gated: bool = False,
        bias: bool = True,
        tied: bool = False,
        remat: Remat = "none",
        attention_block: int | None = None,
        dtype: Any = None,
        key: PRNGKeyArray,
    ):
        groups = heads if groups is None else groups
        if width % heads:
            raise ValueError(f"width: expected a multiple of heads, {heads}, given {width}")
        if groups < 1 or heads % groups:
            raise ValueError(f"groups: expected a divisor of heads, {heads}, given {groups}")
        if blocks < 1:
            raise ValueError(f"blocks: expected at least 1, given {blocks}")
        if attention_block is not None and attention_block < 1:
            raise ValueError(f"attention_block: expected at least 1, given {attention_block}")
        if positions == "rotary" and (width // heads) % 2:
            raise ValueError(f"width: expected an even size of each of {heads} heads, given {width // heads}")
        for name, value, choices in (
            ("positions", positions, get_args(Positions)),
            ("norm", norm, get_args(Norm)),
            ("remat", remat, get_args(Remat)),
        ):
            if value not in choices:
                raise ValueError(f"{name}: expected one of {', '.join(choices)}, given {value!r}")
        first, second, third, last = jax.random.split(key, 4)
        self.embedding = eqx.nn.Embedding(tokens, width, dtype=dtype, key=first)
        if tied:
            self.embedding = eqx.tree_at(
                lambda e: e.weight, self.embedding, replace_fn=lambda w: w / width**0.5
            )
        learned = positions == "learned"
        self.positions = jax.random.normal(second, (length, width), dtype) if learned else None

        def make(key: PRNGKeyArray) -> Block:
            return Block(
                width, heads, groups=groups, inner=4 * width if inner is None else inner,
                positions=positions, norm=norm, gated=gated, bias=bias, attention_block=attention_block,
                activation=activation, dtype=dtype, key=key,
            )  # fmt: skip

        # One after the other, so that no more than one is there beside what they become.
        self.blocks = jax.lax.map(make, jax.random.split(third, blocks))
        self.norm = _NORMS[norm](width, dtype=dtype)
        self.output = None if tied else eqx.nn.Linear(width, tokens, use_bias=bias, dtype=dtype, key=last)
        self.remat = remat

    def __call__(self, tokens: Int[Array, " length"]) -> Float[Array, "length tokens"]:
        """The logits of the next token after each position, in at least 32 bits; use `jax.vmap` for a
        batch."""
        x = jax.vmap(self.embedding)(tokens)
        if self.output is None:
            x = x * x.shape[-1] ** 0.5
        if self.positions is not None:
            x = x + self.positions[: len(tokens)]
        arrays, static = eqx.partition(self.blocks, eqx.is_array)

        def block(x: Array, arrays: Any) -> tuple[Array, None]:
            made: Block = eqx.combine(arrays, static)
            return made(x), None

        if self.remat != "none":
            block = jax.checkpoint(block, policy=REMAT[self.remat], prevent_cse=False)
        x, _ = jax.lax.scan(block, x, arrays)
        x = jax.vmap(self.norm)(x)
        weight = self.embedding.weight if self.output is None else self.output.weight
        dtype = compute_dtype(x.dtype)
        logits = jnp.einsum("lw,tw->lt", x, weight, preferred_element_type=dtype)
        if self.output is None or self.output.bias is None:
            return logits
        return logits + self.output.bias.astype(dtype)
