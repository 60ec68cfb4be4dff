import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pjax_prim.models import MLP

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("hidden", "skip", "widths"),
    [
        ((), False, [(10, 7)]),
        ((), True, [(10, 7)]),
        ((4, 5), False, [(4, 7), (5, 4), (10, 5)]),
        ((4, 5), True, [(4, 7), (5, 4), (10, 9)]),
    ],
)
def test_widths(hidden: tuple[int, ...], skip: bool, widths: list[tuple[int, int]]) -> None:
    model = MLP(7, 10, hidden, skip=skip, key=KEY)
    assert [layer.weight.shape for layer in model.layers] == widths
    assert model(jnp.ones(7)).shape == (10,)


def test_skip_is_the_concatenation_of_hidden_layers() -> None:
    model = MLP(3, 2, (4, 5), skip=True, key=KEY)
    x = np.linspace(-1, 1, 3)
    (w1, b1), (w2, b2), (w3, b3) = ((layer.weight, layer.bias) for layer in model.layers)
    first = np.maximum(w1 @ x + b1, 0)
    second = np.maximum(w2 @ first + b2, 0)
    np.testing.assert_allclose(model(jnp.asarray(x)), w3 @ np.concatenate([first, second]) + b3)


def test_without_skip_is_eqx_mlp() -> None:
    model = MLP(3, 2, (4, 4), key=KEY)
    other = eqx.nn.MLP(3, 2, 4, 2, key=KEY)
    other = eqx.tree_at(lambda m: m.layers, other, model.layers)
    x = jnp.linspace(-1, 1, 3)
    np.testing.assert_allclose(model(x), other(x))


def test_dtype() -> None:
    model = MLP(3, 2, (4,), dtype=jnp.float32, key=KEY)
    assert {leaf.dtype for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array))} == {jnp.dtype("float32")}
