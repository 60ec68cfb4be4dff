"""Everything that determines a run."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ..data import DATASETS, Dataset, hold_out, load
from ..errors import ArgumentError
from ..metric import METRICS
from ..models import HEADS, SEQUENCE_NETWORKS, make_network
from ..sharding import MeshConfig

PROJECTION_SOLVERS = ("ap", "ar", "dr", "dm", "cp", "cdr", "ep")
OPTAX_SOLVERS = {"displacement": 2e-3, "adam": 1e-3, "sgd": 0.1}
"""What hands a direction to optax, and the default learning rates: `displacement` that of projections
to Adam, the others gradients."""

FROM_FORWARD_PASS = (*OPTAX_SOLVERS, "ep")
"""The solvers whose every step begins with a forward pass, so that they keep nothing but parameters."""

HIDDEN: dict[str, tuple[int, ...]] = {
    "mlp": (128, 128),
    "cnn": (32, 32),
    "rnn": (128,),
    "gru": (128,),
    "transformer": (64,),
}
"""The hidden layers of a model by default: widths, or channels of convolutions."""

SOLVERS = {model: "ap" if model == "mlp" else "displacement" for model in HIDDEN}
"""The solver of a model by default. Plain projections teach the deeper ones slowly."""

CHOICES: dict[str, tuple[str, ...]] = {
    "data": DATASETS,
    "model": tuple(HIDDEN),
    "solver": (*PROJECTION_SOLVERS, *OPTAX_SOLVERS),
    "loss": ("cross_entropy", "margin", "squared_error"),
    "form": ("compressed", "expanded"),
    "metric": tuple(METRICS),
    "acceleration": ("anderson", "restarted"),
    "schedule": ("constant", "cosine", "linear"),
}

ONLY_FOR: dict[str, tuple[str, tuple[str, ...]]] = {
    "relaxation": ("solver", ("dr",)),
    "rate": ("solver", ("ep",)),
    "metric": ("solver", tuple(solver for solver in PROJECTION_SOLVERS if solver != "ep")),
    "acceleration": ("solver", PROJECTION_SOLVERS),
    "beta": ("solver", ("dm",)),
    "form": ("solver", ("ap", "cp")),
    "learning_rate": ("solver", tuple(OPTAX_SOLVERS)),
    "schedule": ("solver", tuple(OPTAX_SOLVERS)),
    "warmup": ("solver", tuple(OPTAX_SOLVERS)),
    "lam": ("loss", ("cross_entropy", "squared_error")),
    "dropout": ("model", ("mlp",)),
    "length": ("data", ("text",)),
}
"""Options that would have no effect elsewhere: option -> (the field it hangs on, its values)."""


def check_hidden(model: str, hidden: Sequence[int]) -> str | None:
    """What is wrong with the widths of a network, or None."""
    if not hidden and model != "mlp":
        return f"expected at least one width for model {model}, given none"
    if model == "transformer" and (len(set(hidden)) > 1 or hidden[0] % HEADS):
        return f"expected equal multiples of {HEADS} for model transformer, given {tuple(hidden)}"
    return None


@dataclass(frozen=True)
class TrainConfig:
    """What `train` does. The same configuration gives the same parameters, bit for bit, on the
    same machine and versions.

    **Arguments:** None means the default of the solver or loss concerned.

    - `data`, `data_dir`, `length` (text): see `pjax_prim.data.load`.
    - `model`, `hidden` (channels of a cnn, one width per block of a transformer), `skip`: see
      `pjax_prim.models`.
    - `solver`: `ap`, `ar`, `dr`, `dm`, `cp`, `cdr`, `ep` (projections), `displacement` (their direction to
      Adam) or `adam`, `sgd` (gradients); `ap` for an mlp, `displacement` for the others by default.
    - `relaxation` (dr), `beta` (dm), `rate` (ep), `form` (ap, cp), `learning_rate` (displacement, adam, sgd).
    - `metric` (projections but ep): a preset of `pjax_prim.METRICS`.
    - `acceleration` (projections): of the steps on a batch, `anderson` or `restarted`.
    - `schedule` (displacement, adam, sgd): how the learning rate falls over the run: not at all
      (`constant`, the default), or to zero along a `cosine` or a line (`linear`). `warmup`: the
      batches at the beginning over which it rises from zero.
    - `loss`, and `lam`, the step of its proximal operator (cross_entropy, squared_error).
    - `batch_size`, `batches`: examples per batch, and how many batches.
    - `steps_per_batch`: solver steps from each batch's forward pass, 50 by default; for ep, displacement,
      adam and sgd, updates on each batch, 1 by default.
    - `chunk_steps`: a batch of more solver steps is taken in chunks of so many, between which a run
      can be saved and stopped.
    - `dropout` (mlp): the share of hidden values that each example drops in training.
    - `average`: decay of the moving average of the parameters over batches, in (0, 1).
    - `validation`: the share of the training examples that is held out, the same for all seeds, and
      tells which evaluation is the best; without it the test examples do.
    - `patience`: stops after so many evaluations without a better one on the held out examples.
    - `track_best`: whether to keep the parameters of the best evaluation.
    - `eval_every`: batches between evaluations; a tenth of the run by default.
    - `seed`: of the initial parameters and of the order of the examples.
    - `mesh`: how the devices are arranged (`pjax_prim.sharding.MeshConfig.parse`), as
      `data=2,model=2`; None for one device, and for several processes as `data=-1`.

    **Errors:** `ArgumentError` for a value out of range, or an option without effect.
    """

    data: str = "digits"
    data_dir: str | None = None
    length: int | None = None
    model: str = "mlp"
    hidden: tuple[int, ...] = None  # type: ignore[assignment]  # never None once made
    skip: bool = False
    solver: str = None  # type: ignore[assignment]  # never None once made
    relaxation: float | None = None
    beta: float | None = None
    rate: float | None = None
    form: str | None = None
    metric: str | None = None
    acceleration: str | None = None
    learning_rate: float | None = None
    schedule: str | None = None
    warmup: int | None = None
    loss: str = "cross_entropy"
    lam: float | None = None
    batch_size: int = 256
    batches: int = 300
    steps_per_batch: int | None = None
    chunk_steps: int = 100
    dropout: float | None = None
    average: float | None = None
    validation: float | None = None
    patience: int | None = None
    track_best: bool = False
    eval_every: int | None = None
    seed: int = 0
    mesh: str | None = None

    def __post_init__(self) -> None:
        if self.solver is None:
            object.__setattr__(self, "solver", SOLVERS.get(self.model))
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            optional = name in ("form", "metric", "acceleration", "schedule")
            if value not in choices and not (optional and value is None):
                raise ArgumentError(f"{name}: expected one of {', '.join(choices)}, given {value!r}")
        if self.hidden is None:
            object.__setattr__(self, "hidden", HIDDEN[self.model])
        for name, (other, values) in ONLY_FOR.items():
            if getattr(self, name) is not None and getattr(self, other) not in values:
                raise ArgumentError(
                    f"{name}: only for {other} {', '.join(values)}, given with {getattr(self, other)}"
                )
        counts = "batch_size", "batches", "steps_per_batch", "chunk_steps", "eval_every", "length"
        for name in (*counts, "warmup", "patience"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ArgumentError(f"{name}: expected at least 1, given {value}")
        for name in ("learning_rate", "lam", "rate"):
            if (value := getattr(self, name)) is not None and not (value > 0 and math.isfinite(value)):
                raise ArgumentError(f"{name}: expected a finite number above zero, given {value}")
        for name in ("dropout", "average", "validation"):
            if (value := getattr(self, name)) is not None and not 0 < value < 1:
                raise ArgumentError(f"{name}: expected a number above 0 and below 1, given {value}")
        if any(width < 1 for width in self.hidden):
            raise ArgumentError(f"hidden: expected widths of at least 1, given {self.hidden}")
        if problem := check_hidden(self.model, self.hidden):
            raise ArgumentError(f"hidden: {problem}")
        if (self.data == "text") != (self.model in SEQUENCE_NETWORKS):
            raise ArgumentError(
                f"model: {', '.join(SEQUENCE_NETWORKS)} are for data text and no others are, "
                f"given {self.model} with {self.data}"
            )
        if self.skip and self.model == "transformer":
            raise ArgumentError("skip: not for model transformer, whose blocks add to one another")
        if self.warmup is not None and self.warmup >= self.batches:
            raise ArgumentError(
                f"warmup: expected fewer than the {self.batches} batches of the run, given {self.warmup}"
            )
        if self.patience is not None and self.validation is None:
            raise ArgumentError("patience: needs examples to judge by; give validation, the share held out")
        if self.acceleration is not None and self.steps == 1:
            raise ArgumentError("acceleration: of several steps on a batch; give steps_per_batch, above 1")
        if self.mesh is not None:
            MeshConfig.parse(self.mesh)
        if self.seed < 0:
            raise ArgumentError(f"seed: expected at least 0, given {self.seed}")

    @property
    def changes_over_run(self) -> bool:
        """Whether a step depends on how many batches the run has."""
        return self.schedule not in (None, "constant")

    @property
    def steps(self) -> int:
        """`steps_per_batch`, or the solver's default."""
        return self.steps_per_batch or (1 if self.solver in FROM_FORWARD_PASS else 50)

    def is_evaluated(self, batches: int) -> bool:
        """Whether accuracy is taken after this many batches; always at the end."""
        every = self.eval_every or max(1, self.batches // 10)
        return batches == self.batches or batches % every == 0

    def load_data(self, data_dir: str | Path | None = None) -> Dataset:
        """The data set, from `data_dir` if that is where it lies now, with examples held out if asked for.

        **Errors:** see `data.load`; `ArgumentError` where `validation` leaves no example on either side.
        """
        whole = load(self.data, self.data_dir if data_dir is None else data_dir, length=self.length)
        return whole if self.validation is None else hold_out(whole, self.validation)

    def make_model(self, dataset: Dataset) -> Any:
        """The network with its initial float32 parameters.

        **Errors:** `ArgumentError` for a cnn on data that are no images.
        """
        if self.model == "cnn" and dataset.image_shape is None:
            raise ArgumentError(f"model: cnn takes images, and the examples of {dataset.name} are none")
        return make_network(
            self.model,
            dataset.features,
            dataset.classes,
            self.hidden,
            image_shape=dataset.image_shape,
            skip=self.skip,
            dropout=self.dropout or 0.0,
            dtype=jnp.float32,
            key=jax.random.key(self.seed),
        )

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON gives them back."""
        fields: dict[str, Any] = json.loads(self.to_json())
        return fields

    def to_json(self) -> str:
        """All fields as one JSON object."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "TrainConfig":
        """The inverse of `to_json`. `ArgumentError` for text that is not of this form."""
        try:
            values: dict[str, Any] = json.loads(text)
            unknown = values.keys() - {field.name for field in fields(cls)}
            if unknown:
                raise ArgumentError(f"{', '.join(sorted(unknown))}: no such field")
            return cls(**{**values, "hidden": tuple(values["hidden"])})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, ArgumentError):
                raise
            raise ArgumentError(f"not a configuration ({error})") from None
