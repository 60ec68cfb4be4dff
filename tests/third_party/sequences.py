"""Recurrent, state-space and spiking networks."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .registry import Problem, classification, key, model, normal, squared, tokens


def discretised(name: str, **settings: Any) -> Problem:
    from discretax import models
    from discretax.encoder import LinearEncoder
    from discretax.heads import ClassificationHead

    keys = jax.random.split(key(), 3)

    def build() -> Any:
        return eqx.nn.Sequential(
            [
                LinearEncoder(in_features=3, out_features=8, key=keys[0]),
                getattr(models, name)(hidden_dim=8, num_blocks=2, key=keys[1], **settings),
                ClassificationHead(in_features=8, out_features=5, key=keys[2]),
            ]
        )

    network, state = eqx.nn.make_with_state(build)()
    x = normal(4, 12, 3)

    def loss(network: Any) -> Array:
        def one(x: Array, state: Any) -> Any:
            return network(x, state, key=key(5))

        mapped = jax.vmap(one, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        return classification(mapped(x, state)[0])

    return network, loss


model("linear recurrent unit (complex, associative scan)", "discretax")(
    lambda: discretised("LRU", state_dim=8)
)
model("S5", "discretax")(lambda: discretised("S5", state_dim=8))
model("LinOSS", "discretax")(lambda: discretised("LinOSS", state_dim=8))
model("DeltaNet", "discretax")(lambda: discretised("DeltaNet", n_heads=2, chunk_size=4))


@model("S5 of linax", "linax")
def linax_s5() -> Problem:
    from linax.encoder import LinearEncoderConfig
    from linax.heads import ClassificationHeadConfig
    from linax.models import S5Config

    config = S5Config(LinearEncoderConfig(8, 3), ClassificationHeadConfig(5), num_blocks=1)
    network, state = eqx.nn.make_with_state(config.build)(key=key())
    x = normal(3, 8, 3)

    def loss(network: Any) -> Array:
        mapped = jax.vmap(network, axis_name="batch", in_axes=(0, None, None), out_axes=(0, None))
        return classification(mapped(x, state, key(5))[0])

    return network, loss


@model("Mamba", "jaxonmodels")
def mamba() -> Problem:
    from jaxonmodels.models.mamba import Mamba

    network = Mamba(n_embd=8, n_dims=16, n_layers=2, d_state=4, key=key())
    x = tokens(16, 10)
    return network, lambda network: classification(network(x))


def recurrent(name: str, *settings: Any, **named: Any) -> Problem:
    from rnn_jax import cells
    from rnn_jax.layers.rnn import RNNEncoder

    network = RNNEncoder(getattr(cells, name)(3, *settings, key=key(), **named), key=key(1))
    x = normal(2, 10, 3)
    return network, lambda network: squared(jax.vmap(network)(x))


model("unitary recurrent network (complex)", "rnn_jax")(lambda: recurrent("UnitaryEvolutionRNNCell", 8))
model("clockwork recurrent network (cond in scan)", "rnn_jax")(
    lambda: recurrent("ClockWorkRNNCell", [4, 4], [1, 2], jnp.tanh)
)
model("Lipschitz recurrent network", "rnn_jax")(
    lambda: recurrent("LipschitzRNNCell", 8, 0.8, 0.1, 0.8, 0.1, 0.1, 0.3)
)
model("coupled oscillators", "rnn_jax")(lambda: recurrent("CoupledOscillatoryRNNCell", 8, 1.0, 1.0, 0.1))
model("LSTM of rnn_jax", "rnn_jax")(lambda: recurrent("LongShortTermMemory", 8))


MEMORIES = (
    "FART", "FWP", "DeltaNet", "DeltaProduct", "GDN", "FFM", "S6", "LRU", "LinearRNN", "Attention",
    "GRU", "LSTM", "Elman", "MGU", "Spherical",
)  # fmt: skip


def memory(name: str) -> Problem:
    from memax.equinox.train_utils import get_residual_memory_model

    network = get_residual_memory_model(name, 3, 16, 5, num_layers=1, key=key())
    x, start = normal(10, 3), jnp.arange(10) % 6 == 0

    def loss(network: Any) -> Array:
        state = network.initialize_carry(None)
        return classification(network(state, (x, start))[1])

    return network, loss


for name in MEMORIES:
    model(f"memory by {name}", "memax")(lambda name=name: memory(name))


@model("Megalodon (complex moving averages, chunked attention)", "megalodon_jax")
def megalodon() -> Problem:
    from megalodon_jax import MegalodonConfig, MegalodonForCausalLM

    config = MegalodonConfig(
        vocab_size=16, model_dim=16, num_layers=1, num_heads=2, z_dim=8, value_dim=16, ffn_hidden_dim=16,
        cema_ndim=4, chunk_size=8, norm_num_groups=4,
    )  # fmt: skip
    network, x = MegalodonForCausalLM(config, key=key()), tokens(16, 2, 16)
    return network, lambda network: classification(network(x)[0])


@model("spiking network with a surrogate of its author", "jaxpike")
def spiking() -> Problem:
    import jaxpike

    network = jaxpike.Sequential(
        jaxpike.Dense(6, 16, key=key(), gain=3.0),
        jaxpike.LIF(5.0),
        jaxpike.Dense(16, 4, key=key(1), gain=3.0),
    )
    x = (normal(20, 6) > 0).astype("float32")
    return network, lambda network: squared(jaxpike.unroll(network, x)[0])


@model("signatures of paths", "signax")
def signatures() -> Problem:
    import signax

    network = [eqx.nn.Linear(n, m, key=key(n)) for n, m in ((2, 3), (3 + 9 + 27, 4), (3 + 3 + 8, 4))]
    x = normal(4, 7, 2)

    def loss(m: Any) -> Array:
        def one(x: Array) -> Array:
            path = jnp.cumsum(jnp.tanh(jax.vmap(m[0])(x)), 0)
            return m[1](signax.signature(path, 3)) + m[2](signax.logsignature(path, 3))

        return squared(jax.vmap(one)(x))

    return network, loss
