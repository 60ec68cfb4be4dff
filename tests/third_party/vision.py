"""Networks for images."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array

from .registry import Problem, classification, key, model, normal


def images(network: Any, size: int, channels: int = 3, batch: int = 3, **settings: Any) -> Problem:
    """A network of one image, a key and `inference`, trained: with its drop path."""
    x, keys = normal(batch, channels, size, size), jax.random.split(key(7), batch)

    def loss(network: Any) -> Array:
        return classification(jax.vmap(lambda x, k: network(x, key=k, inference=False, **settings))(x, keys))

    return network, loss


@model("vision transformer with registers and drop path", "equimo")
def vit() -> Problem:
    from equimo.vision.models.vit import VisionTransformer

    network = VisionTransformer(
        16, 3, 16, 4, 2, [2], key=key(), reg_tokens=2, drop_path_rate=0.2, num_classes=5, init_values=0.1
    )
    return images(network, 16)


@model("ConvNeXt of equimo", "equimo")
def convnext() -> Problem:
    from equimo.vision.models.convnext import ConvNeXt

    network = ConvNeXt(
        depths=[1, 1], dims=[8, 16], num_classes=5, drop_path_rate=0.2, layer_scale_init_value=0.1, key=key()
    )
    return images(network, 32)


@model("MobileNetV3", "equimo")
def mobilenet() -> Problem:
    from equimo.vision.models.mobilenet import MobileNetv3

    layers = [(8, 16, 3, 1, True, "relu"), (8, 24, 3, 2, False, "hard_swish")]
    return images(MobileNetv3(3, layers, last_channels=32, num_classes=5, key=key()), 16)


@model("Mamba2 vision (VSSD)", "equimo")
def vssd() -> Problem:
    from equimo.vision.models.vssd import Vssd

    network = Vssd(
        32, 3, dim=16, depths=[1, 1], num_heads=[2, 4], num_classes=5, key=key(),
        attentions_layers=("mamba2mixer", "attention"),
    )  # fmt: skip
    return images(network, 32)


@model("linear attention with rotary positions (MLLA)", "equimo")
def mlla() -> Problem:
    from equimo.vision.models.mlla import Mlla

    return images(Mlla(32, 3, dim=16, depths=[1, 1], num_heads=[2, 2], num_classes=5, key=key()), 32)


@model("ReduceFormer", "equimo")
def reduceformer() -> Problem:
    from equimo.vision.models.reduceformer import ReduceFormer

    network = ReduceFormer(
        3, [8, 8, 16], [1, 1, 1], ["conv", "conv", "attention"], head_dim=8, num_classes=5, key=key()
    )
    return images(network, 32)


@model("LowFormer", "equimo")
def lowformer() -> Problem:
    from equimo.vision.models.lowformer import LowFormer

    network = LowFormer(
        3, [8, 8, 16], [1, 1, 1], [1, 1, 1], ["conv", "conv", "attention"], attention_type="softmax",
        num_classes=5, key=key(),
    )  # fmt: skip
    return images(network, 32)


@model("attention of the most important patches (PartialFormer)", "equimo")
def partialformer() -> Problem:
    from equimo.vision.models.partialformer import PartialFormer

    network = PartialFormer(112, 3, 8, [2, 2], [1, 1], 0.5, patch_size=7, num_classes=5, key=key())
    return images(network, 112, batch=1)


@model("AttNet", "equimo")
def attnet() -> Problem:
    from equimo.vision.models.attnet import AttNet

    two = [True, True]
    network = AttNet(
        3, dims=[16, 32], depths=[1, 1], exp_rates=[2, 2], kernel_sizes=[3, 3], glu_dwconv=two, glu_norm=two,
        num_classes=5, key=key(),
    )  # fmt: skip
    return images(network, 32)


@model("looped vision transformer (Parcae)", "equimo")
def parcae() -> Problem:
    from equimo.vision.models.parcae import VisionParcae

    network = VisionParcae(
        16, 3, 16, 4, 2, n_layers_in_prelude=1, n_layers_in_recurrent_block=1, n_layers_in_coda=1,
        mean_recurrence=3, num_classes=5, key=key(),
    )  # fmt: skip
    return images(network, 16)


@model("audio spectrogram transformer", "equimo")
def spectrogram() -> Problem:
    from equimo.audio.models.ast import AudioSpectrogramTransformer

    network = AudioSpectrogramTransformer(16, 16, 16, 8, 4, 4, 2, [1], num_classes=5, key=key())
    x = normal(2, 16, 16)
    return network, lambda m: classification(jax.vmap(lambda x: m(x, key(5), inference=False))(x))


def stateful(network: Any, state: Any, size: int, apply: Callable[..., Any], batch: int = 6) -> Problem:
    """A network with the statistics of its batch."""
    x = normal(batch, 3, size, size)

    def loss(network: Any) -> Array:
        mapped = jax.vmap(
            lambda x, state: apply(network, x, state),
            axis_name="batch",
            in_axes=(0, None),
            out_axes=(0, None),
        )
        return classification(mapped(x, state)[0])

    return network, loss


@model("ResNet with BatchNorm", "jaxonmodels")
def resnet() -> Problem:
    from jaxonmodels.models.resnet import BasicBlock, ResNet

    network, state = eqx.nn.make_with_state(ResNet)(
        BasicBlock, [1, 1, 1, 1], 5, zero_init_residual=False, groups=1, width_per_group=64,
        replace_stride_with_dilation=None, key=key(),
    )  # fmt: skip
    return stateful(network, state, 32, lambda network, x, state: network(x, state))


@model("EfficientNet (grouped convolutions, BatchNorm, stochastic depth)", "jaxonmodels")
def efficientnet() -> Problem:
    from jaxonmodels.models.efficientnet import EfficientNet, MBConvConfig

    settings = [MBConvConfig(1, 3, 1, 8, 8, 1), MBConvConfig(4, 3, 2, 8, 16, 1)]
    network, state = eqx.nn.make_with_state(EfficientNet)(
        settings, 0.1, stochastic_depth_prob=0.1, n_classes=5, key=key()
    )
    return stateful(network, state, 16, lambda network, x, state: network(x, state, key(5)))


@model("Swin transformer", "jaxonmodels")
def swin() -> Problem:
    from jaxonmodels.models import swin_transformer as swin

    network, state = swin._swin_transformer(
        key(), inference=True, num_classes=5, patch_size=[4, 4], embed_dim=8, depths=[2, 2],
        num_heads=[2, 2], window_size=[2, 2], stochastic_depth_prob=0.1, block=swin.SwinTransformerBlock,
        downsample_layer=swin.PatchMerging, attn_layer=swin.ShiftedWindowAttention,
    )  # fmt: skip
    return stateful(network, state, 32, lambda network, x, state: network(x, state, key(5)), batch=2)


@model("vision transformer of CLIP", "jaxonmodels")
def clip_vit() -> Problem:
    from jaxonmodels.models.clip import VisionTransformer

    network = VisionTransformer(16, 4, 16, 1, 2, 5, key=key(), inference=False, dtype=jax.numpy.float32)
    x = normal(3, 3, 16, 16)
    return network, lambda network: classification(jax.vmap(lambda x: network(x)[0])(x))
