"""The training loop."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import equinox as eqx

from .. import data
from ..checkpoint import WHICH, Retention, import_params, restore_params
from ..errors import ArgumentError, NonFiniteError, RunError
from ..sharding.processes import Group
from .config import TrainConfig
from .curves import draw_curves
from .evaluate import accuracy
from .placing import Placing
from .record import Progress, Record, Saving
from .run_folder import RunFolder, params_sha256
from .state import TrainState, judged_by, make_state, note_accuracy, restart_batch
from .steps import chunk, make_step, non_finite_reason

ALONE = Group()


@dataclass(frozen=True)
class TrainResult:
    """What a finished run has come to.

    **Arguments:**

    - `state`: the last one.
    - `rows`: as in `metrics.jsonl`, those before a resume included. Every row has `batch` and
      `loss`, and but for adam and sgd `gap`; an evaluated one also `train_accuracy`, `test_accuracy`
      and, where examples are held out, `validation_accuracy`.
    - `timings`: after each row the seconds in training steps, without compiling and evaluating.
    - `compile_seconds`: for tracing and compiling the step.
    - `baseline`: see `pjax_prim.data.baseline`.
    - `blocked`: the seconds that each save of a checkpoint took the training.
    """

    config: TrainConfig
    state: TrainState
    rows: list[dict[str, Any]]
    timings: list[float]
    compile_seconds: float
    baseline: tuple[str, float]
    blocked: list[float] = field(default_factory=list)

    @property
    def model(self) -> Any:
        """The network with its trained parameters."""
        return self.state.model

    def summary(self) -> dict[str, Any]:
        """The figures of the run; `gap` is that of the last batch, None for adam and sgd; for displacement
        `pjp.gap` before it."""
        last = self.rows[-1]
        seconds = self.timings[-1]
        return {
            "test_accuracy": last["test_accuracy"],
            "train_accuracy": last["train_accuracy"],
            "batches": len(self.rows),
            "seconds": seconds,
            "compile_seconds": self.compile_seconds,
            "batches_per_second": len(self.rows) / seconds,
            "gap": last.get("gap"),
            "loss": last["loss"],
            "params_sha256": params_sha256(self.model),
        }


def train(
    config: TrainConfig,
    folder: RunFolder | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    resume_older: bool = False,
    init_from: str | Path | None = None,
    saving: Saving | None = None,
    on_batch: Callable[[dict[str, Any]], None] | None = None,
    say: Callable[[str], None] = lambda message: None,
    group: Group = ALONE,
) -> TrainResult:
    """Trains a network. The parameters are carried from batch to batch; everything else of a
    projection solver starts anew from the forward pass of each batch.

    In a folder, checkpoints are saved as `saving` says, at the end, and before stopping on
    SIGTERM. A run that was stopped or killed and resumed gives the same parameters and
    `metrics.jsonl`, bit for bit, as one that was not, on the same mesh, machine and versions.

    **Arguments:**

    - `folder`: where to leave the run; nothing is written if left out.
    - `overwrite`: replaces a run that is already there.
    - `resume`: continues the run in the folder from its newest checkpoint; one without a
      checkpoint starts again, one that is not there begins. `config` must be the same, except for
      the fields of `record.MAY_CHANGE`.
    - `resume_older`: as `resume`, and where the newest checkpoint is damaged, takes the newest one
      that is not and sets the damaged ones aside.
    - `init_from`: a run folder, or a file of `export_params`, whose parameters to begin with.
    - `on_batch`: called with each row as it is made (see `TrainResult.rows`).
    - `say`: called with what is worth telling about a resume.
    - `group`: the processes of the run (`pjax_prim.sharding.processes.start`). Each reads its own
      rows of a batch; the first one writes the folder, which all must see.

    **Errors:** `DataError`, `ArgumentError` and `RunError` before anything is compiled;
    `CheckpointError` also where a checkpoint cannot be written. `NonFiniteError` if a value is not
    finite: the model before that batch is saved. `PreemptedError` after SIGTERM, once all is saved.
    `ProcessError` on every process whose configuration differs from another's, or that others left.
    """
    resume |= resume_older
    if resume and folder is None:
        raise ArgumentError("resume: needs the folder of the run")
    if resume and overwrite:
        raise ArgumentError("overwrite: not together with resume")

    def set_up() -> tuple[data.Dataset, TrainState, Placing]:
        dataset = config.load_data()
        model = config.make_model(dataset)
        if init_from is not None:
            model = _initial(init_from, model)
        state = make_state(config, model)
        make_step(config)  # checks the solver's settings before anything is written
        return dataset, state, Placing(config, dataset, state)

    saving = saving or Saving(retention=Retention(metric=judged_by(config)))
    dataset, state, placing = group.together("configuration", set_up, lambda _: config.to_dict())
    state = placing.state(state)
    with group.connected("run"), Record(folder, config, dataset, saving) as record:

        def begin() -> tuple[TrainState, Progress]:
            if resume:
                return record.resume(state, allow_older=resume_older, say=say)
            return state, record.begin(overwrite=overwrite)

        state, progress = group.together("run folder", begin)
        steps = _CompiledSteps(config, placing, group)
        stopped = has_stopped(config, progress.rows)
        for batch in placing.batches(dataset, progress.batch):
            if stopped:
                break
            state, values = _take_batch(steps, state, batch, progress, record)
            number = progress.batch + 1
            row: dict[str, Any] = {"batch": number, **values}
            if config.is_evaluated(number):
                with group.waiting(f"evaluation after batch {number}"):
                    row["train_accuracy"] = accuracy(state.model, dataset.train_x, dataset.train_y)
                    row["test_accuracy"] = accuracy(state.model, dataset.test_x, dataset.test_y)
                    if dataset.validation_x is not None and dataset.validation_y is not None:
                        held_out = dataset.validation_x, dataset.validation_y
                        row["validation_accuracy"] = accuracy(state.model, *held_out)
                state = note_accuracy(state, row[judged_by(config)])
            progress.rows.append(row)
            progress.timings.append(progress.seconds)
            progress.batch, progress.start = number, 0
            stopped = config.is_evaluated(number) and has_stopped(config, progress.rows)
            record.after_batch(state, progress)
            if on_batch is not None:
                on_batch(row)
        record.save(state, progress, wait=True)
        state = placing.whole(state)
        if folder is not None and group.is_first:
            folder.save_model(state.model)
            draw_curves(progress.rows, f"{config.data}, {config.model}, {config.solver}", folder.curves)
    return TrainResult(
        config,
        state,
        progress.rows,
        progress.timings,
        steps.seconds,
        data.baseline(dataset),
        record.blocked,
    )


def has_stopped(config: TrainConfig, rows: list[dict[str, Any]]) -> bool:
    """Whether as many evaluations as `patience` have not been better than the best before."""
    if config.patience is None:
        return False
    seen = [row[judged_by(config)] for row in rows if judged_by(config) in row]
    return bool(seen) and len(seen) - 1 - seen.index(max(seen)) >= config.patience


class _CompiledSteps:
    """The steps from each position in a batch, compiled when they are first needed."""

    def __init__(self, config: TrainConfig, placing: Placing, group: Group):
        self.config = config
        self.placing = placing
        self.group = group
        self.seconds = 0.0
        self._compiled: dict[tuple[bool, int, bool], Callable[..., Any]] = {}

    def __call__(self, start: int, state: TrainState, batch: Any) -> Callable[..., Any]:
        """`step(state, *batch) -> (state, metrics)` from `start` solver steps on."""
        count = chunk(self.config, start)
        kind = (start == 0, count, start + count == self.config.steps)
        if kind not in self._compiled:
            began = time.perf_counter()
            step = make_step(self.config, start, self.placing.placement)
            self._compiled[kind] = self.placing.compile(step, state, batch)
            self.seconds += time.perf_counter() - began
        return self._compiled[kind]


def _take_batch(
    steps: _CompiledSteps, state: TrainState, batch: Any, progress: Progress, record: Record
) -> tuple[TrainState, dict[str, float]]:
    """From wherever in the batch the state stands to its end; the metrics of the batch."""
    config = steps.config
    while True:
        step = steps(progress.start, state, batch)
        began = time.perf_counter()
        with steps.group.waiting(f"batch {progress.batch + 1}"):
            state, metrics = step(state, *batch)
            values = {name: value.item() for name, value in metrics.items()}  # waits for the device
        progress.seconds += time.perf_counter() - began
        if not values.pop("finite"):
            state, progress.start = restart_batch(state), 0
            message = f"batch {progress.batch + 1}: {non_finite_reason(config, state, *batch)}"
            if record.folder is not None:
                record.save(state, progress, wait=True)
                model = steps.placing.whole(state.model)
                if steps.group.is_first:
                    record.folder.save_model(model)
                message += f" Training stopped; the model before it is saved in {record.folder.model}."
            raise NonFiniteError(message)
        progress.start += chunk(config, progress.start)
        if progress.start == config.steps:
            return state, values
        record.between_chunks(state, progress)


def _initial(source: str | Path, model: Any) -> Any:
    """The model with the parameters of a run or a file."""
    return import_params(source, model) if Path(source).is_file() else restore_params(source, model)


def load_run_model(
    folder: RunFolder, dataset: data.Dataset, *, which: str = "last", step: int | None = None
) -> Any:
    """The model of a run's newest checkpoint, or of the one named.

    A folder without checkpoints has its model in `model.eqx`.

    **Arguments:** `which`: "last", "averaged" or "best" parameters.

    **Errors:** `RunError` where there is none; see `restore_params`.
    """
    if which not in WHICH:
        raise ArgumentError(f"parameters: expected one of {', '.join(WHICH)}, given {which!r}")
    like = eqx.filter_eval_shape(folder.load_config().make_model, dataset)
    if folder.checkpoints.steps() or step is not None:
        return restore_params(folder.path, like, step=step, which=which)
    if which != "last":
        raise RunError(f"{folder.path}: holds no checkpoint, so no {which} parameters")
    return folder.load_model(like)


def evaluate_run(
    folder: RunFolder,
    data_dir: str | Path | None = None,
    *,
    which: str = "last",
    step: int | None = None,
) -> dict[str, Any]:
    """`train_accuracy`, `test_accuracy` and `params_sha256` of a run's newest checkpoint.

    **Arguments:** `data_dir`: where the data lie now, if not where they lay for the training;
    `which` and `step` as in `load_run_model`.

    **Errors:** `RunError` where the folder holds no checkpoint and no finished run, `DataError`
    for its data.
    """
    config = folder.load_config()
    dataset = config.load_data(data_dir)
    model = load_run_model(folder, dataset, which=which, step=step)
    return {
        "test_accuracy": accuracy(model, dataset.test_x, dataset.test_y),
        "train_accuracy": accuracy(model, dataset.train_x, dataset.train_y),
        "params_sha256": params_sha256(model),
    }
