"""The networks that predict the next token at every position."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from pjax_prim.models import SEQUENCE_NETWORKS, Recurrent, Transformer, make_network

KEY = jax.random.key(0)
TOKENS = jnp.array([3, 0, 4, 4, 1, 2])


@pytest.mark.parametrize("skip", [False, True])
def test_recurrent_is_the_loop_written_out(skip: bool) -> None:
    model = Recurrent(5, (4, 3), skip=skip, key=KEY)
    states = [np.zeros(4), np.zeros(3)]
    expected = []
    for token in TOKENS:
        x = model.embedding.weight[token]
        for i, cell in enumerate(model.cells):
            moved = cell.recurrent.weight @ states[i] + cell.inputs.weight @ x + cell.inputs.bias
            x = states[i] = np.tanh(moved)
        read = np.concatenate(states) if skip else states[-1]
        expected.append(model.output.weight @ read + model.output.bias)
    np.testing.assert_allclose(model(TOKENS), np.stack(expected), rtol=1e-12)


def test_gru_is_the_cell_of_equinox() -> None:
    model = Recurrent(5, (4,), cell="gru", key=KEY)
    (cell,) = model.cells
    assert isinstance(cell, eqx.nn.GRUCell)
    state: Array = jnp.zeros(4)
    for token in TOKENS:
        state = cell(model.embedding(token), state)
    np.testing.assert_allclose(model(TOKENS)[-1], model.output(state), rtol=1e-12)


@pytest.mark.parametrize("name", SEQUENCE_NETWORKS)
def test_no_prediction_sees_what_it_predicts(name: str) -> None:
    model = make_network(name, 6, 5, (8,), key=KEY)
    logits, changed = model(TOKENS), model(TOKENS.at[3].set(0))
    assert logits.shape == (6, 5)
    np.testing.assert_array_equal(logits[:3], changed[:3])
    assert (logits[3:] != changed[3:]).any(1).all()


def test_transformer_knows_positions() -> None:
    model = Transformer(5, 6, 8, 2, key=KEY)
    logits = model(jnp.zeros(6, int))
    assert len(np.unique(np.asarray(logits), axis=0)) == 6
    np.testing.assert_allclose(model(TOKENS[:4]), model(TOKENS)[:4], rtol=1e-9)


@pytest.mark.parametrize("name", SEQUENCE_NETWORKS)
def test_dtype(name: str) -> None:
    model = make_network(name, 6, 5, (8,), dtype=jnp.float32, key=KEY)
    assert {x.dtype for x in jax.tree.leaves(eqx.filter(model, eqx.is_array))} == {jnp.dtype("float32")}
    assert model(TOKENS).dtype == jnp.float32


def test_bad_sizes() -> None:
    with pytest.raises(ValueError, match="hidden: expected at least one layer, given none"):
        Recurrent(5, (), key=KEY)
    with pytest.raises(ValueError, match="width: expected a multiple of heads, 4, given 6"):
        Transformer(5, 6, 6, key=KEY)
    with pytest.raises(ValueError, match="blocks: expected at least 1, given 0"):
        Transformer(5, 6, 8, 0, key=KEY)
