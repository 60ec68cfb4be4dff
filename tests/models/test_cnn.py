import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pjax_prim.models import CNN

KEY = jax.random.key(0)


@pytest.mark.parametrize(("skip", "features"), [(False, 5), (True, 9)])
def test_the_output_layer_reads_maxima(skip: bool, features: int) -> None:
    model = CNN((6, 7, 2), 3, (4, 5), skip=skip, key=KEY)
    assert model.output.weight.shape == (3, features)
    image = jax.random.normal(KEY, (6, 7, 2))
    x, maxima = jnp.moveaxis(image, -1, 0), []
    for convolution in model.convolutions:
        x = jnp.maximum(convolution(x), 0)
        assert x.shape[1:] == (6, 7)
        maxima.append(jnp.max(x, (1, 2)))
    expected = model.output(jnp.concatenate(maxima) if skip else maxima[-1])
    np.testing.assert_allclose(model(image), expected, rtol=1e-12)
    np.testing.assert_allclose(model(image.ravel()), expected, rtol=1e-12)


def test_dtype() -> None:
    model = CNN((4, 4, 1), 2, (3,), dtype=jnp.float32, key=KEY)
    assert {leaf.dtype for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array))} == {jnp.dtype("float32")}


def test_no_convolution_is_an_error() -> None:
    with pytest.raises(ValueError, match="channels: expected at least one convolution, given none"):
        CNN((4, 4, 1), 2, (), key=KEY)
