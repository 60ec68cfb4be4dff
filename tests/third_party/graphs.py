"""Networks on graphs."""

from typing import Any

import jax.numpy as jnp

from .registry import Problem, key, model, normal, squared


@model("graph attention (GATv2)", "gatv2_eqx")
def gatv2() -> Problem:
    import gatv2_eqx

    network = gatv2_eqx.GATv2(6, key=key())
    x, edges = normal(5, 6), (normal(5, 5) > 0.3) | jnp.eye(5, dtype=bool)
    return network, lambda m: squared(m(x, edges.astype("float32"), 2, key=key(1)))


@model("equivariant potential with forces (NequIP)", "nequip_eqx", "jraph", "e3nn_jax")
def nequip() -> Problem:
    import jraph
    from nequip_eqx.model import Nequip

    network = Nequip(
        key(), 2, lmax=1, hidden_size=4, n_layers=1, radial_basis_size=4, radial_mlp_size=8,
        radial_mlp_layers=2,
    )  # fmt: skip
    senders, receivers = jnp.where(~jnp.eye(4, dtype=bool))
    nodes = {"species": jnp.arange(5) % 2, "positions": normal(5, 3)}
    graph = jraph.GraphsTuple(
        nodes=nodes, edges=None, senders=senders, receivers=receivers, globals=None,
        n_node=jnp.array([4, 1]), n_edge=jnp.array([12, 0]),
    )  # fmt: skip

    def loss(m: Any) -> Any:
        energies, forces = m(graph)
        return jnp.mean((energies[0] - 1) ** 2) + squared(forces[:4])

    return network, loss
