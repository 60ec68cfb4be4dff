"""Packages that change what a network is made of: matrices, axes, comparisons, graphs, formulas."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .registry import Problem, classification, key, model, normal, squared


@model("low-rank changes by an interpreter (LoRA)", "quax")
def low_rank() -> Problem:
    import quax

    network = quax.lora.loraify(eqx.nn.MLP(3, 5, 8, 2, jax.nn.gelu, key=key()), rank=2, key=key(1))
    x = normal(8, 3)
    return network, lambda m: classification(jax.vmap(quax.quaxify(m))(x))


@model("named axes", "coordax")
def named_axes() -> Problem:
    import coordax

    x = normal(5, 3, 6)

    def loss(m: Any) -> Any:
        out = coordax.cmap(m)(coordax.field(x, "x", "channel", "y").untag("channel")).tag("out")
        return squared((out * coordax.cmap(jax.nn.sigmoid)(out)).data)

    return eqx.nn.MLP(3, 4, 8, 1, jax.nn.gelu, key=key()), loss


@model("acyclic graph of neurons", "connex")
def neurons() -> Problem:
    from connex.nn import DenseMLP

    x = normal(6, 3)
    return DenseMLP(3, 5, 4, 2, key=key()), lambda m: classification(jax.vmap(m)(x))


def softened(**settings: Any) -> Problem:
    import softjax

    x = normal(4, 3)

    def loss(m: Any) -> Any:
        y = jax.vmap(m)(x)
        return squared(softjax.sort(y, **settings)) + squared(softjax.rank(y, **settings), 8)

    return eqx.nn.MLP(3, 6, 8, 1, jax.nn.tanh, key=key()), loss


for method in ("neuralsort", "smooth_sort", "sorting_network"):
    model(f"soft order by {method}", "softjax")(
        lambda method=method: softened(axis=-1, method=method, softness=0.3)
    )


@model("straight-through signs and choices", "softjax")
def straight_through() -> Problem:
    import softjax

    x = normal(4, 3)

    def loss(m: Any) -> Any:
        y = jax.vmap(m)(x)
        return squared(softjax.sign_st(y)) + squared(softjax.argmax_st(y), 9)

    return eqx.nn.MLP(3, 6, 8, 1, jax.nn.tanh, key=key()), loss


@model("formula with trained constants", "sympy2jax", "sympy")
def formula() -> Problem:
    import sympy
    import sympy2jax

    x, y = sympy.symbols("x y")
    network = sympy2jax.SymbolicModule(
        [1.5 * sympy.sin(0.7 * x) + sympy.exp(-0.3 * y**2), sympy.Max(x, 0.2 * y) + sympy.tanh(0.4 * x * y)]
    )
    a, b = normal(16), normal(16, seed=8)
    return network, lambda m: squared(jnp.stack(m(x=a, y=b)))


@model("Gaussian process by its likelihood (Cholesky)", "eqxlearn")
def gaussian_process() -> Problem:
    from eqxlearn.gaussian_process import kernels
    from eqxlearn.gaussian_process.regressor import GaussianProcessRegressor

    kernel = kernels.ConstantKernel(1.3) * kernels.RBFKernel(jnp.array([0.8, 1.2]))
    network = GaussianProcessRegressor(kernel + kernels.WhiteNoiseKernel(0.1), 1e-6)
    x, y = normal(8, 2), normal(8, seed=5)
    return network, lambda m: m.condition(x, y).loss()
