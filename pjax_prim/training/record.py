"""What a run writes while it goes, and how it continues from that."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from ..checkpoint import (
    CheckpointWriter,
    FolderLock,
    Preemption,
    Retention,
    SavePolicy,
    differences,
    set_aside,
)
from ..checkpoint.folder import mismatch
from ..data import Stream
from ..errors import PreemptedError, RunError
from ..sharding.processes import Group
from .config import TrainConfig
from .run_folder import RunFolder
from .state import TrainState
from .task import Task

MAY_CHANGE = ("batches", "eval_every", "mesh")
"""Fields of a configuration that do not change what its steps do; `batches` does if a schedule ends there."""

_PACKAGES = ("pjax-prim", "jax", "jaxlib", "equinox", "optax", "orbax-checkpoint", "numpy")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Saving:
    """When checkpoints of a run are saved, and which are kept (there in batches, as everywhere)."""

    policy: SavePolicy = SavePolicy()
    retention: Retention = Retention()


@dataclass
class Progress:
    """Where a run stands, beside its state.

    - `position`: in the data, after the finished batches.
    - `rows`: of `metrics.jsonl`; `timings`: the seconds after each.
    - `batch`: finished batches; `start`: steps done on the next.
    - `seconds`: in training steps so far.
    """

    position: Any
    rows: list[dict[str, Any]] = field(default_factory=list)
    timings: list[float] = field(default_factory=list)
    batch: int = 0
    start: int = 0
    seconds: float = 0.0


class Record:
    """The run folder of a run under way, held against other writers; a context manager.

    Without a folder nothing is written, and a signal to stop is not noticed. All processes use it together:
    what one of them alone may find wrong is compared before any of them waits for another.

    **Arguments:** `saving`: its retention names the figure by which `best` checkpoints are kept; `sign`, -1
    where the least is the best; `say`: called with what is worth telling.
    """

    def __init__(
        self,
        folder: RunFolder | None,
        config: TrainConfig,
        task: Task,
        stream: Stream,
        saving: Saving,
        group: Group,
        sign: float = 1.0,
        say: Say = lambda message: None,
    ):
        self.folder = folder
        self._config = config
        self._task = task
        self._stream = stream
        self._policy = saving.policy
        self._retention = saving.retention
        self._sign = sign
        self._group = group
        self._say = say
        self._lock: FolderLock | None = None
        self._stack = ExitStack()
        self._saved: int | None = None
        self._writer: CheckpointWriter | None = None
        self._preemption: Preemption | None = None
        self.blocked: list[float] = []
        """Seconds that each save took the training."""

    def __enter__(self) -> "Record":
        folder = self.folder
        if folder is None:
            return self
        with ExitStack() as stack:

            def hold() -> None:
                folder.make()
                if self._group.is_first:
                    self._lock = stack.enter_context(FolderLock(folder.path, self._say))
                    stack.push(self._end)

            self._group.together("run folder", hold)
            self._preemption = stack.enter_context(Preemption())
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _end(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leaves all rows behind, also those after the last save."""
        assert self.folder is not None
        with nullcontext() if kind is None else suppress(RunError):  # of two errors the first counts
            self._check_lock()
            self.folder.sync_metrics()

    def _check_lock(self) -> None:
        """Raises `CheckpointError`, before the folder is written, where another process has taken it."""
        if self._lock is not None:
            self._lock.check()

    def begin(self, *, overwrite: bool) -> Progress:
        """Begins a run in its folder. `RunError` where there is one already."""
        if self.folder is not None:
            self._group.together("run folder", lambda: self._create(overwrite))
            self._open()
        return Progress(self._stream.start)

    def _create(self, overwrite: bool) -> None:
        if self._group.is_first and self.folder is not None:
            self.folder.create(self._config, self._task, overwrite=overwrite)

    def resume(
        self,
        begin: Callable[[], TrainState],
        before: Callable[[], TrainState],
        between: Callable[[], TrainState],
        *,
        allow_older: bool,
        say: Say,
    ) -> tuple[TrainState, Progress]:
        """Continues the run in its folder from its newest checkpoint.

        A run without a checkpoint starts again, and one that is not there begins.

        **Arguments:** `begin()` makes the state before the first batch; `before()` and `between()` give the
        shapes and shardings of a state between batches and in the middle of one, into which it is restored;
        `allow_older`: whether a damaged checkpoint is passed over.

        **Errors:** `CheckpointError` where the newest checkpoint is damaged, or the configuration, the
        task's options, the data or an array differs from what it was; it lists each field and path.
        """
        folder = self.folder
        assert folder is not None

        def look() -> list[int] | None:
            if not folder.holds_run():
                return None
            self._check(
                {"train": folder.load_config().to_dict(), "task": folder.load_origin()}, folder.config
            )
            return folder.checkpoints.steps()

        steps = self._group.together("run folder", look, lambda steps: {"checkpoints": steps})
        if steps is None:
            say(f"{folder.path}: holds no run yet; it begins")
            return begin(), self.begin(overwrite=False)
        if not steps:
            say(f"{folder.path}: holds no checkpoint; the run starts again")
            rows, timings = self._group.together("metrics", lambda: self._rewind(0))
            self._open()
            return begin(), Progress(self._stream.start, rows, timings)

        checkpoints = folder.checkpoints
        with self._group.watching("verifying a checkpoint"):
            step = checkpoints.choose(allow_older=allow_older)
        info = self._group.together("checkpoint", lambda: self._compare(step))
        with self._group.watching("restoring a checkpoint"):
            restored: TrainState = checkpoints.restore(step, between() if info["start"] else before())
        rows, timings = self._group.together("metrics", lambda: self._rewind(info["batch"]))
        with self._group.watching("setting checkpoints aside"):
            for path in set_aside(checkpoints, step):
                say(f"set aside: {path}")
        self._open()
        if changed := differences(info["versions"], _versions()):
            say(
                "other versions than before, so that results may differ in the last bits: "
                + "; ".join(changed)
            )
        say(f"continues after batch {info['batch']}" + (f", step {info['start']}" if info["start"] else ""))
        self._saved = step
        return restored, Progress(
            info["position"], rows, timings, info["batch"], info["start"], info["seconds"]
        )

    def _compare(self, step: int) -> dict[str, Any]:
        """What was saved with a checkpoint. `CheckpointError` where it is of another run."""
        assert self.folder is not None
        info = self.folder.checkpoints.info(step)
        place = self.folder.checkpoints.step_path(step)
        self._check({"train": info["config"], "task": info["task"]}, place)
        lines = differences(info["data"], self._data)
        if info["batch"] > self._config.batches:
            lines.append(
                f"batches: {info['batch']} are done in the checkpoint, {self._config.batches} asked for here"
            )
        if lines:
            raise mismatch(place, lines)
        return info

    def _rewind(self, batches: int) -> tuple[list[dict[str, Any]], list[float]]:
        assert self.folder is not None
        found = self.folder.rewind(batches, write=self._group.is_first)
        if self._group.is_first:
            self.folder.write_config(self._config, self._task)
        return found

    def add(self, rows: Sequence[dict[str, Any]], timings: Sequence[float]) -> None:
        """Writes rows that were read."""
        if self.folder is not None and self._group.is_first and rows:
            self._check_lock()
            self.folder.append_rows(rows, timings)

    def replace(self, rows: Sequence[dict[str, Any]]) -> None:
        """Writes all rows anew, of which one was changed."""
        if self.folder is not None and self._group.is_first:
            self._check_lock()
            self.folder.replace_rows(rows)

    def stops(self) -> bool:
        """Whether the run was asked to stop. All processes ask together."""
        if self._preemption is None:
            return False
        with self._group.waiting("asking whether to stop"):
            return self._preemption.reached()

    def is_due(self, progress: Progress) -> bool:
        """Whether it is time to save, between batches or chunks. All processes ask together."""
        if self._writer is None:
            return False
        with self._group.waiting("asking whether to save"):
            return self._policy.is_due(None if progress.start else progress.batch, self._writer.last_save)

    def save(self, state: TrainState, progress: Progress, *, wait: bool = False) -> None:
        """Saves a checkpoint, unless the newest one is of this moment (or, where a batch has to be
        given up, of a later one). Rows of all its batches must have been added."""
        if self._writer is None or self.folder is None:
            return
        step = self._step(progress)
        if self._saved is None or step > self._saved:
            self._check_lock()
            self.folder.sync_metrics()
            info = {
                "task": dict(self._task.origin),
                "config": self._config.to_dict(),
                "data": self._data,
                "versions": _versions(),
                "batch": progress.batch,
                "start": progress.start,
                "position": progress.position,
                "seconds": progress.seconds,
                "metrics": progress.rows[-1] if progress.rows else {},
            }
            metrics = None if progress.start else self._figures(progress)
            with self._group.watching("saving a checkpoint"):
                self._writer.save(step, state, info, metrics)
            self.blocked.append(self._writer.blocked)
            self._saved = step
        if wait:
            with self._group.watching("saving a checkpoint"):
                self._writer.wait()

    def _figures(self, progress: Progress) -> dict[str, float] | None:
        """What checkpoints are compared by; None of a batch that was not evaluated."""
        name = self._retention.metric
        value = progress.rows[-1].get(name) if progress.rows else None
        return None if value is None else {name: self._sign * value}

    def _open(self) -> None:
        assert self.folder is not None
        chunks = self._chunks
        every = self._retention.every
        retention = Retention(
            self._retention.latest, None if every is None else every * chunks,
            self._retention.best, self._retention.metric,
        )  # fmt: skip
        with self._group.watching("opening the checkpoints"):
            writer = CheckpointWriter(self.folder.checkpoints.path, retention)
        self._writer = self._stack.enter_context(writer)

    @cached_property
    def _data(self) -> dict[str, Any]:
        return self._stream.describe()

    @property
    def _chunks(self) -> int:
        return -(-self._config.method.steps // self._config.method.chunk_steps)

    def _step(self, progress: Progress) -> int:
        return progress.batch * self._chunks + progress.start // self._config.method.chunk_steps

    def stop(self, state: TrainState, progress: Progress) -> None:
        """Saves, and ends the run by a `PreemptedError`."""
        assert self.folder is not None
        self.save(state, progress, wait=True)
        raise PreemptedError(
            f"asked to stop: saved after batch {progress.batch}"
            + (f", step {progress.start}" if progress.start else "")
            + f"; --resume --run-dir {self.folder.path} continues"
        )

    def _check(self, saved: dict[str, Any], place: Path) -> None:
        may_change = set(MAY_CHANGE) - ({"batches"} if self._config.method.changes_over_run else set())
        here = {"train": self._config.to_dict(), "task": dict(self._task.origin)}
        places = set(self._task.origin.get("places", ()))
        fixed = [_flat(fields, may_change, places) for fields in (saved, here)]
        if lines := differences(fixed[0], fixed[1]):
            raise mismatch(place, lines)


def _flat(fields: dict[str, Any], may_change: set[str], places: set[str]) -> dict[str, Any]:
    """The fields that must stay as they are, by their names alone."""
    train = dict(fields["train"])
    method = train.pop("method")
    task = fields["task"]
    options = {name: x for name, x in _leaves(task.get("options", {})).items() if name not in places}
    found = {**({"task": task["name"]} if "name" in task else {}), **options, **method, **train}
    return {name: value for name, value in found.items() if name not in may_change}


def _leaves(options: dict[str, Any]) -> dict[str, Any]:
    """Nested options as the command line has them, without the names of what they are in."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        found |= _leaves(value) if isinstance(value, dict) else {name: value}
    return found


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in _PACKAGES}
