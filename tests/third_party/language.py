"""Language models."""

from typing import Any

import jax
import jax.numpy as jnp

from .registry import Problem, classification, key, model, squared, tokens


def decoder(architecture: str, **settings: Any) -> Problem:
    from eqx_zoo import CausalLM, Config

    config = Config(
        architecture=architecture, vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=4, rms_norm_eps=1e-5, rope_theta=1e4,
        tie_word_embeddings=True, attention_bias=False, rope_scaling=None,
        **{"qk_norm": False, **settings},
    )  # fmt: skip
    x = tokens(32, 8)
    return CausalLM(config, key=key()), lambda m: classification(m(x)[0])


model("Llama", "eqx_zoo")(lambda: decoder("LlamaForCausalLM"))
model("Qwen3 (norms of queries and keys)", "eqx_zoo")(lambda: decoder("Qwen3ForCausalLM", qk_norm=True))
model("Qwen3 with a mixture of experts", "eqx_zoo")(
    lambda: decoder(
        "Qwen3MoeForCausalLM", qk_norm=True, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8,
        norm_topk_prob=True, moe_layers=(0, 1),
    )
)  # fmt: skip


@model("BERT of eqx_zoo", "eqx_zoo")
def bert() -> Problem:
    from eqx_zoo import Encoder, EncoderConfig

    config = EncoderConfig("BertModel", 32, 16, 2, 4, 24, 16, 2, 1e-12)
    x = tokens(32, 2, 8)
    return Encoder(config, key=key()), lambda m: classification(jax.vmap(m)(x))


@model("protein language model ESM2", "esm2quinox")
def esm2() -> Problem:
    import esm2quinox

    network = esm2quinox.ESM2(num_layers=2, embed_size=16, num_heads=4, token_dropout=True, key=key())
    x = tokens(20, 2, 12) + 4
    return network, lambda m: classification(jax.vmap(lambda x: m(x).logits)(x))


@model("protein language model E1", "e1jax")
def e1() -> Problem:
    import e1jax

    network = e1jax.E1(16, 4, 24, 2, key=key())
    n = 12
    x, places, ones = tokens(34, n), jnp.arange(n), jnp.ones(n, bool)
    return network, lambda m: classification(m(x, places, places, places // 6, ones)[0])


@model("transformer with hooks", "irtk")
def hooked() -> Problem:
    import irtk

    config = irtk.HookedTransformerConfig(
        n_layers=2, d_model=16, n_ctx=8, d_head=4, n_heads=4, d_vocab=32, d_mlp=24, gated_mlp=True,
        positional_embedding_type="rotary", rotary_dim=4, normalization_type="RMS", n_key_value_heads=2,
        init_weights=True,
    )  # fmt: skip
    x = tokens(32, 8)
    return irtk.HookedTransformer(config), lambda m: classification(m(x))


@model("BERT of representax (dropout, checkpoints in a scan)", "representax")
def representax_bert() -> Problem:
    from representax.models.bert import BertBatch, BertConfig, BertTower

    config = BertConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=8, type_vocab_size=2, initializer_range=0.2,
    )  # fmt: skip
    batch = BertBatch(
        attention_mask=jnp.arange(8) < jnp.array([[8], [6]]), input_ids=tokens(32, 2, 8),
        token_type_ids=jnp.zeros((2, 8), int),
    )  # fmt: skip

    def loss(m: Any) -> Any:
        return squared(
            m(
                batch, key=key(5), compute_dtype=jnp.float32, attention_implementation="xla",
                rematerialization="selective",
            )
        )  # fmt: skip

    return BertTower.init(config, key=key(), dtype=jnp.float32), loss
