"""What the benchmarks share: a network for a `Dataset` whose examples, or places of a sequence, have
labels."""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

import pjax_prim as pjp

from ..data import Dataset, InOrder, Shuffled, baseline, hold_out
from ..errors import ArgumentError
from ..models import NETWORKS, SEQUENCE_NETWORKS, make_network
from ..models.network import NetworkName
from ..training import Task

Batch = tuple[Array, Array]

LOSSES: dict[str, Callable[..., Array]] = {
    "cross_entropy": pjp.cross_entropy,
    "margin": pjp.margin_loss,
    "squared_error": pjp.squared_error,
}
WITH_LAM = tuple(name for name, loss in LOSSES.items() if "lam" in inspect.signature(loss).parameters)
"""The losses whose proximal operator has a step of the user's."""

if TYPE_CHECKING:
    LossName: TypeAlias = str
else:  # the command line reads its choices here
    LossName = Literal[tuple(LOSSES)]

LABELS = 10_000
"""So many labels are evaluated at a time."""


@dataclass(frozen=True)
class Classifier:
    """The network, its loss and its batches.

    Attributes:
        model: the network; rnn, gru and transformer are for texts, and no others are.
        hidden: widths of the hidden layers; of a cnn, channels, of a transformer, one width a block (default:
            128 128 of an mlp, 32 32 of a cnn, 128 of rnn and gru, 64 of a transformer).
        skip: the output layer reads all hidden layers.
        loss: the output condition.
        loss_lam: step of the proximal operator of cross_entropy and squared_error.
        dropout: share of hidden values of an mlp that are dropped in training.
        validation: share of the training examples that is held out to judge by.
        batch_size: examples in a batch.
    """

    model: NetworkName = "mlp"
    hidden: tuple[int, ...] | None = None
    skip: bool = False
    loss: LossName = "cross_entropy"
    loss_lam: float | None = None
    dropout: float | None = None
    validation: float | None = None
    batch_size: int = 256

    def __post_init__(self) -> None:
        for name, choices in (("model", NETWORKS), ("loss", LOSSES)):
            if getattr(self, name) not in choices:
                raise ArgumentError(
                    f"{name}: expected one of {', '.join(choices)}, given {getattr(self, name)!r}"
                )
        check_network(self.model, self.widths, skip=self.skip)
        if self.batch_size < 1:
            raise ArgumentError(f"batch_size: expected at least 1, given {self.batch_size}")
        if self.loss_lam is not None and self.loss not in WITH_LAM:
            raise ArgumentError(f"loss_lam: only for loss {', '.join(WITH_LAM)}, given with {self.loss}")
        if self.loss_lam is not None and not 0 < self.loss_lam < math.inf:
            raise ArgumentError(f"loss_lam: expected a finite number above zero, given {self.loss_lam}")
        for name in ("dropout", "validation"):
            if (value := getattr(self, name)) is not None and not 0 < value < 1:
                raise ArgumentError(f"{name}: expected a number above 0 and below 1, given {value}")
        if self.dropout is not None and "dropout" not in NETWORKS[self.model].options:
            takers = ", ".join(name for name, row in NETWORKS.items() if "dropout" in row.options)
            raise ArgumentError(f"dropout: only for model {takers}, given with {self.model}")

    @property
    def widths(self) -> tuple[int, ...]:
        """`hidden`, or the model's default."""
        return NETWORKS[self.model].hidden if self.hidden is None else tuple(self.hidden)

    def make_model(self, dataset: Dataset, key: PRNGKeyArray) -> Any:
        """The network with its initial float32 parameters.

        **Errors:** `ArgumentError` for a cnn on data that are no images, and a text with another network
        than its own.
        """
        reads = NETWORKS[self.model].reads
        if dataset.is_sequence != (reads == "tokens"):
            raise ArgumentError(
                f"model: {', '.join(SEQUENCE_NETWORKS)} are for data text and no others are, "
                f"given {self.model} with {dataset.name}"
            )
        if reads == "image" and dataset.image_shape is None:
            raise ArgumentError(
                f"model: {self.model} takes images, and the examples of {dataset.name} are none"
            )
        return make_network(
            self.model,
            dataset.features,
            dataset.classes,
            self.widths,
            image_shape=dataset.image_shape,
            skip=self.skip,
            dropout=self.dropout or 0.0,
            dtype=jnp.float32,
            key=key,
        )


def classification(dataset: Dataset, options: Classifier) -> Task:
    """The task of a network on a data set.

    Evaluations are `train`, `test` and, where examples are held out, `validation`; each gives accuracy and,
    whatever the loss, the mean cross-entropy.

    Those of a text have bits and perplexity, too.

    **Errors:** `ArgumentError` for a network that does not fit the data.
    """
    jax.eval_shape(lambda key: eqx.filter(options.make_model(dataset, key), eqx.is_array), jax.random.key(0))
    if options.validation is not None:
        dataset = hold_out(dataset, options.validation)
    sets = {"train": (dataset.train_x, dataset.train_y)}
    if dataset.validation_x is not None and dataset.validation_y is not None:
        sets["validation"] = dataset.validation_x, dataset.validation_y
    sets["test"] = dataset.test_x, dataset.test_y
    rows = max(1, LABELS * len(dataset.test_y) // dataset.test_y.size)
    judge = "test" if options.validation is None else "validation"
    return Task(
        name=f"{dataset.name}, {options.model}",
        model=lambda key: options.make_model(dataset, key),
        loss=make_loss(options),
        train=lambda seed: Shuffled(sets["train"], options.batch_size, seed=seed),
        evaluate={name: InOrder(arrays, rows) for name, arrays in sets.items()},
        metrics=classified,
        nats=dataset.is_sequence,
        best=f"max {judge}_accuracy",
        measure_gap=True,
        baselines={"test_accuracy": baseline(dataset)},
    )


def make_loss(options: Classifier) -> Callable[..., Array]:
    """`loss(model, batch, key)`: the loss of each label."""
    function = LOSSES[options.loss]
    settings = {} if options.loss_lam is None else {"lam": options.loss_lam}

    def loss(model: Any, batch: Batch, key: PRNGKeyArray | None) -> Array:
        x, labels = batch
        if key is None or options.dropout is None:
            logits = jax.vmap(model)(x)
        else:
            logits = jax.vmap(lambda row, key: model(row, key=key))(x, jax.random.split(key, len(x)))
        return function(logits, labels, **settings)

    return loss


def classified(model: Any, batch: Batch) -> dict[str, Array]:
    """Mean cross-entropy in nats, and accuracy."""
    x, labels = batch
    logits = jax.vmap(model)(x)
    likelihoods = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1)
    return {"loss": -likelihoods, "accuracy": jnp.argmax(logits, -1) == labels}


def check_network(model: str, hidden: Sequence[int], *, skip: bool = False) -> None:
    """`ArgumentError` for widths that a network cannot have."""
    if any(width < 1 for width in hidden):
        raise ArgumentError(f"hidden: expected widths of at least 1, given {tuple(hidden)}")
    row = NETWORKS[model]
    if not hidden and not row.may_be_linear:
        raise ArgumentError(f"hidden: expected at least one width for model {model}, given none")
    if row.equal is not None and (len(set(hidden)) > 1 or hidden[0] % row.equal):
        raise ArgumentError(
            f"hidden: expected equal multiples of {row.equal} for model {model}, given {tuple(hidden)}"
        )
    if skip and "skip" not in row.options:
        raise ArgumentError(f"skip: not for model {model}, whose blocks add to one another")
