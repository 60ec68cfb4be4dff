"""The training loop."""

import functools
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import equinox as eqx
import jax

from ..checkpoint import Retention
from ..errors import ArgumentError, DataError, NonFiniteError
from ..sharding.processes import Group, whole
from .clock import Clock
from .compiled import load_steps
from .config import TrainConfig
from .evaluate import Evaluator
from .parts import CompiledSteps, Kind, Parts
from .placing import Packed, PackedStep
from .record import Progress, Record, Saving
from .result import TrainResult
from .run_folder import RunFolder, describe_run
from .state import TrainState, judged_by, judged_model, note_best, restart_batch
from .steps import batch_key, non_finite_reason
from .task import Task, TaskLoss, rows_of
from .trackers import TrackedRun, Tracker, Trackers

Given = ParamSpec("Given")
Found = TypeVar("Found")

ALONE = Group()
AHEAD = 8
"""So many steps may be under way before the metrics of the first of them are read."""


def _moving_arrays(function: Callable[Given, Found]) -> Callable[Given, Found]:
    """Lets a function move arrays between host and devices, as training does, whatever is allowed outside."""

    @functools.wraps(function)
    def moving(*args: Given.args, **kwargs: Given.kwargs) -> Found:
        with jax.transfer_guard("allow"):
            return function(*args, **kwargs)

    return moving


@_moving_arrays
def train(
    task: Task,
    config: TrainConfig | None = None,
    folder: RunFolder | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    resume_older: bool = False,
    init_from: str | Path | None = None,
    compiled: str | Path | None = None,
    saving: Saving | None = None,
    trackers: Mapping[str, Tracker] | None = None,
    on_batch: Callable[[dict[str, Any]], None] | None = None,
    say: Callable[[str], None] = lambda message: None,
    group: Group = ALONE,
) -> TrainResult:
    """Trains the model of a task. The parameters are carried from batch to batch; everything else of a
    projection solver starts anew from the forward pass of each batch.

    In a folder, checkpoints are saved as `saving` says, at the end, and before stopping on SIGTERM. A run
    that was stopped or killed and resumed gives the same parameters and `metrics.jsonl`, bit for bit, as one
    that was not, on the same mesh, machine and versions. Steps follow one another without waiting; rows come
    some steps later.

    **Arguments:**

    - `task`, `config`: what is trained, and how; `TrainConfig()` by default.
    - `folder`: where to leave the run; nothing is written if left out.
    - `overwrite`: replaces a run that is already there.
    - `resume`: continues the run in the folder from its newest checkpoint; one without a checkpoint starts
      again, one that is not there begins. Task and `config` must be the same, except for the fields of
      `record.MAY_CHANGE` and for the task's options that are paths.
    - `resume_older`: as `resume`, and where the newest checkpoint is damaged, takes the newest one that is
      not and sets the damaged ones aside.
    - `init_from`: a run folder, or a file of `export_params`, whose parameters to begin with.
    - `trackers`: by name, what takes the figures of the run beside its folder (`trackers`). One that cannot
      start is an `ArgumentError`; one that fails later is left out, and said to have been.
    - `compiled`: a file of `pjax-prim aot --save`, whose steps are taken in place of compiling them.
    - `on_batch`: called with each row as it is read (see `TrainResult.rows`).
    - `say`: called with what is worth telling about a resume or a tracker.
    - `group`: the processes of the run (`pjax_prim.sharding.processes.start`). Each reads its own rows of a
      batch; the first one writes the folder, which all must see.

    **Errors:** `DataError`, `ArgumentError` and `RunError` before anything is compiled; `CheckpointError`
    also where a checkpoint cannot be written. `NonFiniteError` if a value is not finite, more often in a row
    than `config.skip_non_finite`: the message says where, and the state before it is saved. `PreemptedError`
    after SIGTERM, when a checkpoint was saved. With several processes `ProcessError` where they disagree,
    `LostProcessError` where one is gone.
    """
    config = config or TrainConfig()
    if not isinstance(task, Task):
        raise ArgumentError(f"task: expected a pjax_prim.training.Task, given {task!r}")
    resume = resume or resume_older
    if resume and folder is None:
        raise ArgumentError("resume: needs the folder of the run")
    if resume and overwrite:
        raise ArgumentError("overwrite: not together with resume")
    _check_figures(task, config)
    judge = judged_by(config, task)

    def set_up() -> tuple[Parts, Mapping[Kind, PackedStep]]:
        parts = Parts.make(task, config)
        return parts, {} if compiled is None else load_steps(compiled, parts)

    def fields(_: Any) -> dict[str, Any]:
        given = config.to_dict()
        place = None if folder is None else str(folder.path)
        return {**given, **given["method"], "task": dict(task.origin), "run_dir": place}

    parts, steps = group.together("configuration", set_up, fields)
    saving = saving or Saving(Saving.policy, Retention(metric="" if judge is None else judge[1]))
    sign = 1.0 if judge is None else judge[0]
    with (
        group.connected("run"),
        Record(folder, config, task, parts.stream, saving, group, sign, say) as record,
    ):
        clock = Clock()

        def begin() -> TrainState:
            with clock.on("compile"):
                return parts.init(init_from)

        if resume:
            state, progress = record.resume(
                begin, parts.before, parts.between, allow_older=resume_older, say=say
            )
        else:
            state, progress = begin(), record.begin(overwrite=overwrite)
        tracked = Trackers(trackers or {}, say) if group.is_first else Trackers({}, say)
        with tracked:
            group.together("trackers", lambda: _start(tracked, parts, folder, progress.batch))
            compiled_steps = CompiledSteps(parts, clock, steps)
            run = _Run(parts, compiled_steps, record, progress, clock, group, tracked, on_batch)
            state = run.train(state)
            record.save(state, progress, wait=True)
        model = whole(judged_model(task, state), keep=group.is_first)
        if folder is not None and group.is_first:
            folder.save_model(model)
    return TrainResult(
        task,
        config,
        model,
        state,
        progress.rows,
        progress.timings,
        clock.seconds,
        record.blocked,
        tracked.failed,
        rows_of(parts.batch),
    )


def _start(trackers: Trackers, parts: Parts, folder: RunFolder | None, done: int) -> None:
    """Starts the trackers, and keeps what they call the run."""
    task, config = parts.task, parts.config
    name = f"{task.name}-{config.method.solver}"

    def run(identity: str | None) -> TrackedRun:
        return TrackedRun(name, folder, describe_run(config, task), config.batches, done, identity)

    found = trackers.start(run, {} if folder is None else folder.load_identities())
    if folder is not None and found:
        folder.save_identities(found)


def _check_figures(task: Task, config: TrainConfig) -> None:
    judge = judged_by(config, task)
    for name in ("patience", "track_best"):
        if getattr(config, name) and judge is None:
            raise ArgumentError(f"{name}: needs evaluations to judge by, and the task {task.name} has none")
    if judge is not None and not task.has_figures([judge[1]]):
        names = ", ".join(f"{name}_..." for name in task.evaluate) or "none"
        raise ArgumentError(f"best: expected a figure of an evaluation ({names}), given {judge[1]!r}")


def has_stopped(config: TrainConfig, task: Task, rows: list[dict[str, Any]]) -> bool:
    """Whether as many evaluations as `patience` have not been better than the best before."""
    judge = judged_by(config, task)
    if config.patience is None or judge is None:
        return False
    seen = [judge[0] * row[judge[1]] for row in rows if judge[1] in row]
    return bool(seen) and len(seen) - 1 - seen.index(max(seen)) >= config.patience


@dataclass
class _Pending:
    """A batch whose metrics were not read yet: its number, the position before it, metrics on their
    devices."""

    number: int
    before: Any
    metrics: dict[str, Any]


class _Run:
    """The loop of one run."""

    def __init__(
        self,
        parts: Parts,
        steps: CompiledSteps,
        record: Record,
        progress: Progress,
        clock: Clock,
        group: Group,
        trackers: Trackers,
        on_batch: Callable[[dict[str, Any]], None] | None,
    ):
        self.parts, self.record, self.progress = parts, record, progress
        self.clock, self.group, self.trackers, self.on_batch = clock, group, trackers, on_batch
        self.steps = steps
        self.evaluator = Evaluator(parts.task, parts.placing.whole_batch, parts.placing.evaluating)
        self.pending: deque[_Pending] = deque()
        self.before = progress.seconds
        self._spent = 0.0
        self._gap: Callable[..., Any] | None = None

    def train(self, state: TrainState) -> TrainState:
        """Gives the state at the end of the run."""
        config, task, progress = self.parts.config, self.parts.task, self.progress
        packed = Packed.of(state)
        if has_stopped(config, task, progress.rows):
            return state
        if progress.batch == config.batches:
            return self._evaluate_last(packed).state
        for batch, position in self._batches():
            packed = self._take(packed, batch)
            progress.batch, progress.start, progress.position = progress.batch + 1, 0, position
            if config.is_evaluated(progress.batch):
                rows = self._read(packed)
                packed = self._evaluate(packed, batch, rows[-1])
                self._add(rows)
                if has_stopped(config, task, progress.rows):
                    break
            elif len(self.pending) > AHEAD:
                self._add(self._read(packed, keep=AHEAD // 2))
            self._save(packed)
        if not config.is_evaluated(progress.batch):
            raise DataError(
                f"train: the data ended after {progress.batch} of {config.batches} batches; repeat them"
            )
        return packed.state

    def _batches(self) -> Iterator[tuple[Any, Any]]:
        """The batches that are left, each in its place, with the position after it."""
        placing, progress = self.parts.placing, self.progress
        left = self.parts.config.batches - progress.batch
        found = iter(self.parts.stream.read(progress.position, left, placing.own_rows))
        counts = jax.tree.map(lambda x: x.shape[0] if x.shape else 0, self.parts.batch)
        while True:
            with self.clock.on("data"):
                batch, position = next(found, (None, None))
                if position is None:
                    return
                placed = placing.batch(batch, counts)
            yield placed, position

    def _take(self, packed: Packed, batch: Any) -> Packed:
        """Takes the steps from where the state stands in the batch to its end."""
        method, progress = self.parts.config.method, self.progress
        before = progress.position
        while True:
            with self.group.waiting(f"batch {progress.batch + 1}"):
                packed, metrics = self.steps(progress.start, packed, batch)
            progress.start += method.chunk(progress.start)
            if progress.start == method.steps:
                self.pending.append(_Pending(progress.batch + 1, before, metrics))
                return packed
            self._save(packed)

    def _read(self, packed: Packed, keep: int = 0) -> list[dict[str, Any]]:
        """The rows of all batches but the last `keep`, which are waited for.

        **Errors:** `NonFiniteError` where one of them stops the run.
        """
        rows: list[dict[str, Any]] = []
        with self.clock.on("steps"), self.group.waiting(f"batch {self.progress.batch}"):
            while len(self.pending) > keep:
                item = self.pending.popleft()
                values = {name: value.item() for name, value in jax.device_get(item.metrics).items()}
                if values.pop("stop"):
                    self._add(rows)
                    self._fail(packed, item)
                row = {"batch": item.number, **{name: _finite(x) for name, x in values.items()}}
                if not row.pop("finite"):
                    row["skipped"] = True
                rows.append(row)
        return rows

    def _add(self, rows: list[dict[str, Any]]) -> None:
        progress = self.progress
        progress.seconds = self.before + self.clock.seconds["steps"]
        timings = [progress.seconds] * len(rows)
        progress.rows += rows
        progress.timings += timings
        self.record.add(rows, timings)
        self.trackers.log(rows, self._time(len(rows)))
        if self.on_batch is not None:
            for row in rows:
                self.on_batch(row)

    def _time(self, batches: int) -> dict[str, float]:
        """Where the time went so far, and how fast the last batches were."""
        seconds = self.clock.seconds
        spent, total = seconds["steps"] + seconds["data"], sum(seconds.values())
        found = {f"{name}_seconds": value for name, value in seconds.items()}
        if total:
            found["goodput"] = seconds["steps"] / total
        if spent > self._spent:
            found["examples_per_second"] = batches * rows_of(self.parts.batch) / (spent - self._spent)
        self._spent = spent
        return found

    def _evaluate(self, packed: Packed, batch: Any, row: dict[str, Any]) -> Packed:
        """Adds the figures of an evaluation to the row of the batch; notes the best parameters."""
        task, config = self.parts.task, self.parts.config
        state = packed.state
        with self.clock.on("evaluate"), self.group.waiting(f"evaluation after batch {self.progress.batch}"):
            model = judged_model(task, state)
            figures = self.evaluator(model, state.model_state)
            row.update({name: _finite(x) for name, x in figures.items()})
            if batch is not None and task.measure_gap and config.method.solver == "displacement":
                row["gap"] = _finite(float(self._measure(state, batch)))
        judge = judged_by(config, task)
        if judge is None or not config.track_best:
            return packed
        if judge[1] not in figures:
            raise ArgumentError(f"best: expected one of {', '.join(figures)}, given {judge[1]!r}")
        return Packed.of(note_best(state, task.split(model)[0], judge[0] * figures[judge[1]]))

    def _evaluate_last(self, packed: Packed) -> Packed:
        """Evaluates at the end of a run that was to be longer: its last batch may have had no evaluation. The
        batch itself is gone, and so is its gap."""
        progress = self.progress
        row = progress.rows[-1]
        if not self.parts.task.evaluate or self.parts.task.has_figures(row):
            return packed
        packed = self._evaluate(packed, None, row)
        self.record.replace(progress.rows)
        return packed

    def _measure(self, state: TrainState, batch: Any) -> Any:
        """The gap of the batch."""
        from ..displacement import gap

        if self._gap is None:
            self._gap = eqx.filter_jit(gap(TaskLoss(self.parts.task).value))
        trained, frozen = self.parts.task.split(state.model)
        return self._gap(trained, frozen, state.model_state, batch, batch_key(state))

    def _save(self, packed: Packed) -> None:
        """Saves if it is time to, and stops the run if it was asked to."""
        stops = self.record.stops()
        if not stops and not self.record.is_due(self.progress):
            return
        self._add(self._read(packed))
        with self.clock.on("save"):
            if stops:
                self.record.stop(packed.state, self.progress)
            self.record.save(packed.state, self.progress)

    def _fail(self, packed: Packed, item: _Pending) -> None:
        """Ends the run at a batch that is not finite; what came after it has changed nothing."""
        parts, progress, record = self.parts, self.progress, self.record
        progress.batch, progress.start, progress.position = item.number - 1, 0, item.before
        state = restart_batch(packed.state)
        batch = next(self._batches())[0]
        message = f"batch {item.number}: {non_finite_reason(parts.config, parts.task, state, batch)}"
        if record.folder is not None:
            record.save(state, progress, wait=True)
            model = whole(judged_model(parts.task, state), keep=self.group.is_first)
            if self.group.is_first:
                record.folder.save_model(model)
            message += f" Training stopped; the model before it is saved in {record.folder.model}."
        raise NonFiniteError(message)


def _finite(value: Any) -> Any:
    """A number as JSON has it: None for one that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
