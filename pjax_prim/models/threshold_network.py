"""A network of threshold neurons."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

import pjax_prim as pjp


class ThresholdNetwork(eqx.Module):
    """Layers y = sign(W [x, 1]), all values +-1. There is no surrogate gradient: projections train it.

    **Arguments:**

    - `sizes`: the sizes of the input, the hidden layers and the output; at least two.
    - `sigma`: the support of `pjp.threshold_dot`, one for all layers or one for each.
    - `bias`: whether every layer has one more input that is always 1.
    - `dtype`: the dtype of the weights; JAX's default float if left out.
    - `key`: the key of the initial weights, which are normal, with the number of inputs as squared length.
    """

    weights: tuple[Float[Array, "out in"], ...]
    sigma: tuple[float, ...] = eqx.field(static=True)
    bias: bool = eqx.field(static=True)

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        sigma: float | Sequence[float] = 3.0,
        bias: bool = True,
        dtype: Any = None,
        key: PRNGKeyArray,
    ):
        if len(sizes) < 2 or min(sizes) < 1:
            raise pjp.ArgumentError(f"sizes: expected at least two sizes of at least 1, given {tuple(sizes)}")
        keys = jax.random.split(key, len(sizes) - 1)
        self.weights = tuple(
            pjp.FixedNorm().project(jax.random.normal(k, (m, n + bias), dtype))
            for k, n, m in zip(keys, sizes, sizes[1:], strict=False)
        )
        layers = len(sizes) - 1
        self.sigma = (float(sigma),) * layers if isinstance(sigma, int | float) else tuple(sigma)
        if len(self.sigma) != layers:
            raise pjp.ArgumentError(f"sigma: expected one number or {layers}, given {sigma!r}")
        self.bias = bias

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        """The output for one example; use `jax.vmap` for a batch."""
        for w, sigma in zip(self.weights, self.sigma, strict=True):
            if self.bias:
                x = jnp.concatenate([x, jnp.ones(1, x.dtype)])
            x = pjp.threshold_dot(w, x, sigma)
        return x
