"""Recurrent networks that predict the next token at every position."""

from collections.abc import Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray


class RNNCell(eqx.Module):
    """h' = tanh(W h + U x + b)."""

    recurrent: eqx.nn.Linear
    inputs: eqx.nn.Linear
    hidden_size: int = eqx.field(static=True)

    def __init__(self, input_size: int, hidden_size: int, *, dtype: Any = None, key: PRNGKeyArray):
        keys = jax.random.split(key)
        self.recurrent = eqx.nn.Linear(hidden_size, hidden_size, use_bias=False, dtype=dtype, key=keys[0])
        self.inputs = eqx.nn.Linear(input_size, hidden_size, dtype=dtype, key=keys[1])
        self.hidden_size = hidden_size

    def __call__(self, x: Float[Array, " input_size"], state: Float[Array, " units"]) -> Array:
        """The next state."""
        return jnp.tanh(self.recurrent(state) + self.inputs(x))


CELLS = {"rnn": RNNCell, "gru": eqx.nn.GRUCell}


class Recurrent(eqx.Module):
    """An embedding, layers of recurrent cells run by `jax.lax.scan`, and a linear map at every position.

    **Arguments:**

    - `tokens`: the number of different tokens; an input is a sequence of integers in `range(tokens)`.
    - `hidden`: the units of each layer, at least one; the embedding is as wide as the first.
    - `cell`: "rnn" (tanh) or "gru" (`eqx.nn.GRUCell`).
    - `skip`: the output layer reads the states of all layers, concatenated, instead of the last
      one's.
    - `dtype`: the dtype of the parameters; JAX's default float if left out.
    - `key`: the key of the initial parameters.
    """

    embedding: eqx.nn.Embedding
    cells: tuple[RNNCell | eqx.nn.GRUCell, ...]
    output: eqx.nn.Linear
    skip: bool = eqx.field(static=True)

    def __init__(
        self,
        tokens: int,
        hidden: Sequence[int] = (128,),
        *,
        cell: Literal["rnn", "gru"] = "rnn",
        skip: bool = False,
        dtype: Any = None,
        key: PRNGKeyArray,
    ):
        if not hidden:
            raise ValueError("hidden: expected at least one layer, given none")
        first, *keys, last = jax.random.split(key, len(hidden) + 2)
        self.embedding = eqx.nn.Embedding(tokens, hidden[0], dtype=dtype, key=first)
        inputs = (hidden[0], *hidden[:-1])
        self.cells = tuple(
            CELLS[cell](n, m, dtype=dtype, key=k) for n, m, k in zip(inputs, hidden, keys, strict=True)
        )
        self.output = eqx.nn.Linear(sum(hidden) if skip else hidden[-1], tokens, dtype=dtype, key=last)
        self.skip = skip

    def __call__(self, tokens: Int[Array, " length"]) -> Float[Array, "length tokens"]:
        """The logits of the next token after each position; use `jax.vmap` for a batch."""
        x = jax.vmap(self.embedding)(tokens)
        states = []
        for cell in self.cells:
            x = _run(cell, x)
            states.append(x)
        return jax.vmap(self.output)(jnp.concatenate(states, -1) if self.skip else states[-1])


def _run(cell: RNNCell | eqx.nn.GRUCell, inputs: Float[Array, "length n"]) -> Float[Array, "length units"]:
    """The states of a cell that reads a sequence, from a state of zeros."""

    def step(state: Array, x: Array) -> tuple[Array, Array]:
        state = cell(x, state)
        return state, state

    return jax.lax.scan(step, jnp.zeros(cell.hidden_size, inputs.dtype), inputs)[1]
