"""Neural operators and emulators of partial differential equations, and networks of diffusion models."""

from typing import Any

import jax
import jax.numpy as jnp

from .registry import Problem, key, model, normal, squared


def emulator(name: str, *sizes: int, **settings: Any) -> Problem:
    from pdequinox import arch

    network = getattr(arch, name)(*sizes, key=key(), **settings)
    x = normal(2, sizes[1], *(16,) * sizes[0])
    return network, lambda m: squared(jax.vmap(m)(x))


model("Fourier neural operator of pdequinox", "pdequinox")(
    lambda: emulator("ClassicFNO", 1, 1, 1, hidden_channels=4, num_modes=3, num_blocks=2)
)
model("U-Net of pdequinox", "pdequinox")(
    lambda: emulator("ModernUNet", 2, 1, 1, hidden_channels=4, num_levels=1, num_blocks=1)
)
model("dilated residual network", "pdequinox")(
    lambda: emulator("DilatedResNet", 1, 1, 1, hidden_channels=4, num_blocks=1, dilation_rates=(1, 2, 1))
)


@model("Fourier neural operator of norax", "norax")
def fno() -> Problem:
    import norax

    network = norax.FNO(key(), 1, 1, (4, 4), width=4, depth=2)
    x = normal(2, 8, 8, 1)
    return network, lambda m: squared(jax.vmap(m)(x))


def score(network: Any, size: int) -> Problem:
    x = normal(2, 1, size, size)
    return network, lambda m: squared(jax.vmap(lambda x: m(jnp.array(0.3), x, key=key(1)))(x))


@model("U-Net of a score model", "sbgm")
def unet() -> Problem:
    from sbgm.models import UNet

    network = UNet(
        8, dim_mults=(1, 2), attn_dim_head=4, attn_heads=2, learned_sinusoidal_cond=True,
        random_fourier_features=True, learned_sinusoidal_dim=8, key=key(),
    )  # fmt: skip
    return score(network, 8)


@model("diffusion transformer", "sbgm")
def dit() -> Problem:
    from sbgm.models import DiT

    return score(DiT(8, 4, 1, 16, 1, 2, key=key()), 8)
