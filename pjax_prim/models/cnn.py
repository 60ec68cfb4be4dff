"""A convolutional network with relu and global max pooling."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


class CNN(eqx.Module):
    """3x3 convolutions that keep the image's size, relu, each channel's maximum, a linear map.

    **Arguments:**

    - `image_shape`: (height, width, channels); an input is an image of this shape, or the same
      numbers flat.
    - `out_size`: length of the output.
    - `channels`: the channels of each convolution; at least one.
    - `skip`: the output layer reads the maxima of all convolutions, concatenated, instead of the
      last one's.
    - `dtype`: the dtype of the parameters; JAX's default float if left out.
    - `key`: the key of the initial weights and biases (those of `eqx.nn.Conv2d` and `eqx.nn.Linear`).
    """

    convolutions: tuple[eqx.nn.Conv2d, ...]
    output: eqx.nn.Linear
    image_shape: tuple[int, int, int] = eqx.field(static=True)
    skip: bool = eqx.field(static=True)

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        out_size: int,
        channels: Sequence[int] = (32, 32),
        *,
        skip: bool = False,
        dtype: Any = None,
        key: PRNGKeyArray,
    ):
        if not channels:
            raise ValueError("channels: expected at least one convolution, given none")
        *keys, last = jax.random.split(key, len(channels) + 1)
        inputs = (image_shape[-1], *channels[:-1])
        self.convolutions = tuple(
            eqx.nn.Conv2d(n, m, 3, padding=1, dtype=dtype, key=k)
            for n, m, k in zip(inputs, channels, keys, strict=True)
        )
        features = sum(channels) if skip else channels[-1]
        self.output = eqx.nn.Linear(features, out_size, dtype=dtype, key=last)
        self.image_shape = image_shape
        self.skip = skip

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, " out_size"]:
        """The output for one example; use `jax.vmap` for a batch."""
        x = jnp.moveaxis(x.reshape(self.image_shape), -1, 0)
        maxima = []
        for convolution in self.convolutions:
            x = jax.nn.relu(convolution(x))
            maxima.append(jnp.max(x, (1, 2)))
        return self.output(jnp.concatenate(maxima) if self.skip else maxima[-1])
