"""The networks by their names on the command line."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
from jaxtyping import PRNGKeyArray

from .cnn import CNN
from .mlp import MLP
from .recurrent import Recurrent
from .transformer import Transformer

SEQUENCE_NETWORKS = ("rnn", "gru", "transformer")
"""Networks that read tokens and predict the next one at every position."""

HEADS = 4
"""Heads of each attention of a transformer."""


def make_network(
    name: str,
    features: int,
    classes: int,
    hidden: Sequence[int],
    *,
    image_shape: tuple[int, int, int] | None = None,
    skip: bool = False,
    dropout: float = 0.0,
    dtype: Any = None,
    key: PRNGKeyArray,
) -> eqx.Module:
    """A network for examples of `features` numbers or tokens.

    **Arguments:** `name`, one of mlp, cnn, rnn, gru, transformer; `hidden`, its widths, which for a
    transformer are equal, one for each block; the others as each network takes them.
    """
    if name == "mlp":
        return MLP(features, classes, hidden, skip=skip, dropout=dropout, dtype=dtype, key=key)
    if name == "cnn":
        assert image_shape is not None
        return CNN(image_shape, classes, hidden, skip=skip, dtype=dtype, key=key)
    if name == "transformer":
        return Transformer(classes, features, hidden[0], len(hidden), heads=HEADS, dtype=dtype, key=key)
    cell: Any = name
    return Recurrent(classes, hidden, cell=cell, skip=skip, dtype=dtype, key=key)
