"""A multilayer perceptron with relu."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


class MLP(eqx.Module):
    """Linear layers with relu between them.

    **Arguments:**

    - `in_size`, `out_size`: lengths of input and output.
    - `hidden`: widths of the hidden layers; none makes a linear map.
    - `skip`: the output layer reads all hidden layers, concatenated, instead of the last one.
    - `dropout`: the share of hidden values set to zero where a call is given a key; the others
      are divided by one minus it.
    - `dtype`: the dtype of the parameters; JAX's default float if left out.
    - `key`: the key of the initial weights and biases (those of `eqx.nn.Linear`).
    """

    layers: tuple[eqx.nn.Linear, ...]
    skip: bool = eqx.field(static=True)
    dropout: float = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_size: int,
        hidden: Sequence[int] = (),
        *,
        skip: bool = False,
        dropout: float = 0.0,
        dtype: Any = None,
        key: PRNGKeyArray,
    ):
        widths = [in_size, *hidden]
        inputs = widths.copy()
        if skip and hidden:
            inputs[-1] = sum(hidden)
        sizes = zip(inputs, [*hidden, out_size], jax.random.split(key, len(widths)), strict=True)
        self.layers = tuple(eqx.nn.Linear(n, m, dtype=dtype, key=k) for n, m, k in sizes)
        self.skip = skip
        self.dropout = dropout

    def __call__(
        self, x: Float[Array, " in_size"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, " out_size"]:
        """The output for one example; use `jax.vmap` for a batch."""
        *hidden_layers, output_layer = self.layers
        hidden = []
        keep = 1 - self.dropout
        for index, layer in enumerate(hidden_layers):
            x = jax.nn.relu(layer(x))
            if key is not None and self.dropout:
                kept = jax.random.bernoulli(jax.random.fold_in(key, index), keep, x.shape)
                x = x * jnp.where(kept, 1 / keep, 0).astype(x.dtype)
            hidden.append(x)
        return output_layer(jnp.concatenate(hidden) if self.skip and hidden else x)
