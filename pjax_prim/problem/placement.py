"""Where the arrays of a problem lie on a mesh of devices."""

from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

State = tuple[tuple[Array, ...], ...]
"""The arrays of each node of the graph: a parameter's own variable, or what a constraint holds."""


@dataclass(frozen=True)
class Placement:
    """The shardings that a problem keeps its arrays in; made by `pjax_prim.sharding`.

    Without one, arrays lie where the compiler's propagation puts them.

    - `outputs`: for each node, that of what it produces and of its target; None for a loss.
    - `operands`: for each node, those of its operands, whole where an elementary constraint needs them whole.
    - `means`: for each node, those of the means over copies of its operands.
    - `copies`: for each node, those of what the expanded form holds.
    - `state`: for each node, those of its arrays in the state.
    - `layouts`: some products, by node, and how their projections in the compressed form are divided in place
      of `operands` (`sharding.products`).
    """

    outputs: tuple[NamedSharding | None, ...]
    operands: tuple[tuple[NamedSharding, ...], ...]
    means: tuple[tuple[NamedSharding, ...], ...]
    copies: tuple[tuple[NamedSharding, ...], ...]
    state: tuple[tuple[NamedSharding, ...], ...]
    layouts: tuple[tuple[int, Any], ...] = ()

    @property
    def whole(self) -> NamedSharding:
        """The sharding of arrays that every device has whole."""
        return NamedSharding(jax.tree.leaves(self.state)[0].mesh, PartitionSpec())

    @property
    def stacked_state(self) -> tuple[tuple[NamedSharding, ...], ...]:
        """The shardings of several states in one, stacked along a new first axis."""
        return jax.tree.map(lambda x: NamedSharding(x.mesh, PartitionSpec(None, *x.spec)), self.state)

    def layout(self, node: int) -> Any:
        """The layout of a product, or None where it has none."""
        return dict(self.layouts).get(node)

    def place_output(self, node: int, array: Array) -> Array:
        """A value in the shape of what a node produces."""
        sharding = self.outputs[node]
        return array if sharding is None else jax.lax.with_sharding_constraint(array, sharding)

    def place_operands(self, node: int, operands: tuple[Array, ...]) -> tuple[Array, ...]:
        """The operands of a node."""
        return tuple(map(jax.lax.with_sharding_constraint, operands, self.operands[node]))

    def place_means(self, node: int, means: tuple[Array | None, ...]) -> tuple[Array | None, ...]:
        """Means over copies of the operands of a node; those that are None stay so."""
        return tuple(
            None if x is None else jax.lax.with_sharding_constraint(x, sharding)
            for x, sharding in zip(means, self.means[node], strict=True)
        )

    def place_copies(self, node: int, copies: tuple[Array, ...]) -> tuple[Array, ...]:
        """The copies of a node."""
        return tuple(map(jax.lax.with_sharding_constraint, copies, self.copies[node]))
