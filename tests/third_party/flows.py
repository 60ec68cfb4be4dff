"""Normalizing flows, and distributions."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .registry import Problem, key, model, normal


def likelihood(distribution: Any, x: Any) -> Problem:
    """The negative log likelihood of a distribution of flowjax, whose fixed parts stay."""
    import paramax

    trained, fixed = eqx.partition(
        distribution, eqx.is_inexact_array, is_leaf=lambda x: isinstance(x, paramax.NonTrainable)
    )
    return trained, lambda m: -jnp.mean(paramax.unwrap(eqx.combine(m, fixed)).log_prob(x))


def flow(name: str, transformer: Callable[[], Any] | None = None, **settings: Any) -> Problem:
    from flowjax import distributions, flows

    if transformer is not None:
        settings["transformer"] = transformer()
    base = distributions.Normal(jnp.zeros(3))
    found = getattr(flows, name)(key(), base_dist=base, flow_layers=2, **settings)
    # A little away from the identity at which flows start.
    arrays, rest = eqx.partition(found, eqx.is_inexact_array)
    leaves, tree = jax.tree.flatten(arrays)
    moved = [x + 0.02 * jax.random.normal(key(i), x.shape) for i, x in enumerate(leaves)]
    return likelihood(eqx.combine(jax.tree.unflatten(tree, moved), rest), normal(16, 3))


def spline() -> Any:
    from flowjax import bijections

    return bijections.RationalQuadraticSpline(knots=5, interval=3)


model("masked autoregressive flow", "flowjax", "paramax")(
    lambda: flow("masked_autoregressive_flow", nn_width=8)
)
model("coupling flow of rational quadratic splines", "flowjax", "paramax")(
    lambda: flow("coupling_flow", spline, nn_width=8)
)
model("block neural autoregressive flow", "flowjax", "paramax")(
    lambda: flow("block_neural_autoregressive_flow", nn_block_dim=4)
)
model("planar flow", "flowjax", "paramax")(lambda: flow("planar_flow", width_size=8, depth=1))
model("triangular spline flow", "flowjax", "paramax")(lambda: flow("triangular_spline_flow", knots=5))


def other(name: str) -> Problem:
    import fleqx

    found = getattr(fleqx, name)(key(), dim=3, flow_layers=2)
    trained, fixed = eqx.partition(found, eqx.is_inexact_array)
    x = normal(8, 3)
    return trained, lambda m: -jnp.mean(jax.vmap(eqx.combine(m, fixed).log_prob)(x))


model("coupling flow of fleqx", "fleqx", "distreqx")(lambda: other("coupling_flow"))
model(
    "planar flow of fleqx", "fleqx", "distreqx", worst=-1.0,
    reason="The slope of a leaky relu, one of two constants, is in the loss: a step function.",
)(lambda: other("planar_flow"))  # fmt: skip


@model("mixture of normal distributions", "distreqx")
def mixture() -> Problem:
    from distreqx import distributions

    x = normal(20)

    def loss(parameters: Any) -> Any:
        logits, means, scales = parameters
        each = jax.vmap(distributions.Normal)(means, jax.nn.softplus(scales))
        found = distributions.MixtureSameFamily(distributions.Categorical(logits=logits), each)
        return -jnp.mean(jax.vmap(found.log_prob)(x))

    return (normal(3), normal(3, seed=5), normal(3, seed=6)), loss


@model("transformer flow (TARFlow)", "transformer_flows")
def tarflow() -> Problem:
    from transformer_flows import TransformerFlow

    network = TransformerFlow(
        n_channels=1, img_size=8, patch_size=4, channels=16, n_blocks=2, layers_per_block=1, head_dim=8,
        expansion=2, key=key(),
    )  # fmt: skip
    x = normal(1, 8, 8)

    def loss(m: Any) -> Any:
        z, _, logdet = m.forward(x, None)
        return m.get_loss(z, logdet)

    return network, loss
