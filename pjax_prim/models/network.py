"""The table of networks: one row for each name on the command line."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import equinox as eqx
from jaxtyping import PRNGKeyArray

from .cnn import CNN
from .mlp import MLP
from .recurrent import Recurrent
from .transformer import Transformer

HEADS = 4
"""Heads of each attention of a transformer."""


@dataclass(frozen=True)
class Network:
    """A row of the table of networks: what tasks and the command line know of one.

    - `make(features, classes, hidden, image_shape, **settings)`: the module; `settings` are dtype, key and
      its options.
    - `hidden`: its hidden layers where none are given: widths, or channels of convolutions.
    - `reads`: what an example is: numbers, an image, or tokens, of which it predicts the next one at every
      position.
    - `options`: those of `make_network` that it takes.
    - `may_be_linear`: whether it may have no hidden layer.
    - `equal`: a number of which all widths are the same multiple; None where they are free.
    """

    make: Callable[..., eqx.Module]
    hidden: tuple[int, ...]
    reads: Literal["numbers", "image", "tokens"] = "numbers"
    options: tuple[str, ...] = ("skip",)
    may_be_linear: bool = False
    equal: int | None = None


def _mlp(features: int, classes: int, hidden: Sequence[int], image_shape: Any, **settings: Any) -> eqx.Module:
    return MLP(features, classes, hidden, **settings)


def _cnn(features: int, classes: int, hidden: Sequence[int], image_shape: Any, **settings: Any) -> eqx.Module:
    assert image_shape is not None
    return CNN(image_shape, classes, hidden, **settings)


def _recurrent(cell: Literal["rnn", "gru"]) -> Callable[..., eqx.Module]:
    def make(
        features: int, classes: int, hidden: Sequence[int], image_shape: Any, **settings: Any
    ) -> eqx.Module:
        return Recurrent(classes, hidden, cell=cell, **settings)

    return make


def _transformer(
    features: int, classes: int, hidden: Sequence[int], image_shape: Any, **settings: Any
) -> eqx.Module:
    return Transformer(classes, features, hidden[0], len(hidden), heads=HEADS, **settings)


NETWORKS: dict[str, Network] = {
    "mlp": Network(_mlp, (128, 128), options=("skip", "dropout"), may_be_linear=True),
    "cnn": Network(_cnn, (32, 32), "image"),
    "rnn": Network(_recurrent("rnn"), (128,), "tokens"),
    "gru": Network(_recurrent("gru"), (128,), "tokens"),
    "transformer": Network(_transformer, (64,), "tokens", options=(), equal=HEADS),
}
"""The networks by their names on the command line."""

SEQUENCE_NETWORKS = tuple(name for name, row in NETWORKS.items() if row.reads == "tokens")
"""Networks that read tokens and predict the next one at every position."""

if TYPE_CHECKING:
    NetworkName: TypeAlias = str
else:  # the command line reads its choices here
    NetworkName = Literal[tuple(NETWORKS)]


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

    **Arguments:** `name`, one of `NETWORKS`; `hidden`, its widths, which for a transformer are equal, one for
    each block; the others as each network takes them.
    """
    row = NETWORKS[name]
    options = {"skip": skip, "dropout": dropout}
    settings = {option: options[option] for option in row.options}
    return row.make(features, classes, hidden, image_shape, **settings, dtype=dtype, key=key)
