"""Everything that determines a run, but for its task."""

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from .. import solvers as pjs
from ..errors import ArgumentError
from ..metric import METRICS
from ..sharding import MeshConfig
from .configuration import from_plain, to_plain
from .methods import ACCELERATIONS, FROM_FORWARD_PASS, OPTIMISERS, PROJECTION_SOLVERS, Acceleration, Solver
from .task import parse_best


@dataclass(frozen=True)
class Method:
    """How the parameters move on a batch.

    Attributes:
        solver: a solver by projections, their direction for an optimiser (displacement), or a gradient (adam
            and sgd with this optimiser).
        relaxation: the relaxation of dr.
        beta: the beta of dm.
        rate: how far parameters move in a step of ep.
        iterations: steps of conjugate gradients in a step of jp.
        lam: the step of the losses' proximal operators, for ep and for finite displacements.
        form: whether ap and cp store all copies.
        metric: weights of the distances of projections but ep (unit if left out).
        acceleration: how the steps of projections on a batch are accelerated (not at all if left out).
        steps_per_batch: steps on each batch from its forward pass (50 by default; 1 for ep, jp and for what
            hands a direction to an optimiser).
        chunk_steps: at most so many steps between two chances to save and stop.
        optimiser: an optimiser of optax by its name (adam if left out).
        optimiser_settings: numbers of the optimiser by name, such as weight_decay 0.1.
        decay_matrices: whether its weight decay is only for arrays with at least two axes.
        learning_rate: the learning rate of the optimiser.
        schedule: how the learning rate falls over the run (not at all if left out).
        final_learning_rate: where a schedule ends (zero if left out).
        warmup: batches at the beginning over which the learning rate rises.
        clip: largest global norm of a direction.
        micro_batches: parts that a batch is taken in, one after the other; their directions are averaged.
        compute_dtype: the dtype of the loss; parameters and what moves them stay as they are.
    """

    solver: Solver = "displacement"
    relaxation: float | None = None
    beta: float | None = None
    rate: float | None = None
    iterations: int | None = None
    lam: float | None = None
    form: Literal["compressed", "expanded"] | None = None
    metric: str | None = None
    acceleration: Acceleration | None = None
    steps_per_batch: int | None = None
    chunk_steps: int = 100
    optimiser: str | None = None
    optimiser_settings: dict[str, float] | None = None
    decay_matrices: bool = False
    learning_rate: float | None = None
    final_learning_rate: float | None = None
    schedule: Literal["constant", "cosine", "linear"] | None = None
    warmup: int | None = None
    clip: float | None = None
    micro_batches: int | None = None
    compute_dtype: Literal["bfloat16", "float16", "float32"] | None = None

    def __post_init__(self) -> None:
        _check_choices(self, Method)
        if self.metric is not None and self.metric not in METRICS:
            raise ArgumentError(f"metric: expected one of {', '.join(METRICS)}, given {self.metric!r}")
        for name, solvers in ONLY_FOR.items():
            if getattr(self, name) not in (None, False) and self.solver not in solvers:
                raise ArgumentError(f"{name}: only for solver {', '.join(solvers)}, given with {self.solver}")
        _check_counts(self, "steps_per_batch", "chunk_steps", "warmup", "micro_batches", "iterations")
        _check_positive(self, "learning_rate", "final_learning_rate", "lam", "rate", "clip")
        if self.final_learning_rate is not None and not self.changes_over_run:
            raise ArgumentError("final_learning_rate: of a schedule that falls; give schedule")
        if self.acceleration is not None and self.steps == 1:
            raise ArgumentError("acceleration: of several steps on a batch; give steps_per_batch, above 1")
        if self.projects:
            self.make_solver()  # which checks its settings

    @property
    def steps(self) -> int:
        """`steps_per_batch`, or the solver's default."""
        return self.steps_per_batch or (1 if self.solver in FROM_FORWARD_PASS else 50)

    @property
    def projects(self) -> bool:
        """Whether a projection solver moves the parameters itself."""
        return self.solver in PROJECTION_SOLVERS

    @property
    def changes_over_run(self) -> bool:
        """Whether a step depends on how many batches the run has."""
        return self.schedule not in (None, "constant")

    def chunk(self, start: int) -> int:
        """How many steps to take at once when `start` steps of a batch are done."""
        return min(self.chunk_steps, self.steps - start)

    def make_solver(self) -> pjs.AbstractSolver:
        """The projection solver, with its settings."""
        given = {name: getattr(self, name) for name in SETTINGS if getattr(self, name) is not None}
        kind = PROJECTION_SOLVERS[self.solver].kind
        if self.acceleration is None:
            return kind(**given)
        metric = given.pop("metric", "unit")
        return ACCELERATIONS[self.acceleration](kind(**given), metric=metric)


SETTINGS = tuple(
    item.name
    for item in fields(Method)
    if any(solver.takes(item.name) for solver in PROJECTION_SOLVERS.values())
)
"""The fields of a method that are settings of projection solvers."""

_TAKERS = {
    setting: tuple(name for name, solver in PROJECTION_SOLVERS.items() if solver.takes(setting))
    for setting in SETTINGS
}
_OF_OPTIMISERS = (
    "optimiser_settings", "decay_matrices", "learning_rate", "final_learning_rate", "schedule", "warmup",
    "clip", "micro_batches",
)  # fmt: skip

ONLY_FOR: dict[str, tuple[str, ...]] = {
    **_TAKERS,
    "lam": ("displacement", *_TAKERS["lam"]),
    "acceleration": tuple(PROJECTION_SOLVERS),
    "optimiser": ("displacement", "gradient"),
    **dict.fromkeys(_OF_OPTIMISERS, tuple(OPTIMISERS)),
}
"""Settings that would have no effect elsewhere: setting -> its solvers."""


@dataclass(frozen=True)
class TrainConfig:
    """What `train` does with a task. The same task and configuration give the same parameters, bit for bit,
    on the same machine and versions.

    Attributes:
        method: how the parameters move.
        batches: the number of batches.
        eval_every: batches between evaluations (a tenth of the run by default; always at the end).
        average: decay of a moving average of the parameters over batches, which evaluations and the trained
            model take; 0 for none (default: 0.999 for jp, else none).
        best: the figure of evaluations by which one is the best, "max NAME" or "min NAME" (default: the
            task's).
        patience: stop after so many evaluations without a better one.
        track_best: keep the parameters of the best evaluation.
        skip_non_finite: how many batches in a row may be skipped because a value is not finite.
        seed: the seed of the initial parameters, of random numbers of the loss, and of data that ask for it.
        mesh: how devices are arranged, such as data=2,model=2; -1 is inferred (default: one device; of
            several processes data=-1).
    """

    method: Method = field(default_factory=Method)
    batches: int = 300
    eval_every: int | None = None
    average: float | None = None
    best: str | None = None
    patience: int | None = None
    track_best: bool = False
    skip_non_finite: int = 0
    seed: int = 0
    mesh: str | None = None

    def __post_init__(self) -> None:
        _check_counts(self, "batches", "eval_every", "patience")
        _check_counts(self, "seed", "skip_non_finite", least=0)
        if self.average is not None and not 0 <= self.average < 1:
            raise ArgumentError(f"average: expected a number of at least 0 and below 1, given {self.average}")
        if self.method.warmup is not None and self.method.warmup >= self.batches:
            raise ArgumentError(
                f"warmup: expected fewer than the {self.batches} batches of the run, "
                f"given {self.method.warmup}"
            )
        if self.best is not None:
            parse_best(self.best)
        if self.mesh is not None:
            MeshConfig.parse(self.mesh)

    @property
    def decay(self) -> float:
        """The decay of the moving average; 0 for none."""
        if self.average is not None:
            return self.average
        solver = PROJECTION_SOLVERS.get(self.method.solver)
        return 0.0 if solver is None else solver.average

    def is_evaluated(self, batches: int) -> bool:
        """Whether there is an evaluation after this many batches; always at the end."""
        every = self.eval_every or max(1, self.batches // 10)
        return batches == self.batches or batches % every == 0

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON gives them back."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    @classmethod
    def from_dict(cls, values: Any) -> "TrainConfig":
        """The inverse of `to_dict`. `ArgumentError` for what is not of this form."""
        return from_plain(cls, values)


def _check_choices(config: Any, kind: type) -> None:
    for item in fields(kind):
        choices = [
            x for x in (item.type, *get_args(item.type)) if get_args(x) and type(get_args(x)[0]) is str
        ]
        value = getattr(config, item.name)
        if choices and value not in get_args(choices[0]) and not (value is None and item.default is None):
            raise ArgumentError(
                f"{item.name}: expected one of {', '.join(get_args(choices[0]))}, given {value!r}"
            )


def _check_counts(config: Any, *names: str, least: int = 1) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ArgumentError(f"{name}: expected a whole number of at least {least}, given {value!r}")


def _check_positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ArgumentError(f"{name}: expected a finite number above zero, given {value}")
