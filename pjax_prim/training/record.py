"""What a run writes while it goes, and how it continues from that."""

import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import equinox as eqx
import jax
import numpy as np

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
from ..data import Dataset
from ..errors import PreemptedError
from .config import TrainConfig
from .run_folder import RunFolder
from .state import TrainState
from .steps import make_step

MAY_CHANGE = ("batches", "data_dir", "eval_every", "mesh")
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

    - `rows`: of `metrics.jsonl`; `timings`: the seconds after each.
    - `batch`: finished batches; `start`: solver steps done on the next.
    - `seconds`: in training steps so far.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    timings: list[float] = field(default_factory=list)
    batch: int = 0
    start: int = 0
    seconds: float = 0.0


class Record:
    """The run folder of a run under way, held against other writers; a context manager.

    Without a folder nothing is written, and a signal to stop is not noticed.
    """

    def __init__(self, folder: RunFolder | None, config: TrainConfig, dataset: Dataset, saving: Saving):
        self.folder = folder
        self._config = config
        self._dataset = dataset
        self._policy = saving.policy
        self._retention = saving.retention
        self._stack = ExitStack()
        self._saved: int | None = None
        self._writer: CheckpointWriter | None = None
        self._preemption: Preemption | None = None
        self.blocked: list[float] = []
        """Seconds that each save took the training."""

    def __enter__(self) -> "Record":
        if self.folder is not None:
            self.folder.make()
            with ExitStack() as stack:
                if _is_first():
                    stack.enter_context(FolderLock(self.folder.path))
                self._preemption = stack.enter_context(Preemption())
                self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def begin(self, *, overwrite: bool) -> Progress:
        """Begins a run in its folder. `RunError` where there is one already."""
        if self.folder is not None:
            if _is_first():
                self.folder.create(self._config, overwrite=overwrite)
            self._open()
        return Progress()

    def resume(self, state: TrainState, *, allow_older: bool, say: Say) -> tuple[TrainState, Progress]:
        """Continues the run in its folder from its newest checkpoint.

        A run without a checkpoint starts again, and one that is not there begins.

        **Arguments:** `state` before the first batch, which gives structure and shardings;
        `allow_older`: whether a damaged checkpoint is passed over.

        **Errors:** `CheckpointError` where the newest checkpoint is damaged, or the configuration,
        the data or an array differs from what it was; it lists each field and path.
        """
        folder = self.folder
        assert folder is not None
        if not folder.config.exists():
            say(f"{folder.path}: holds no run yet; it begins")
            return state, self.begin(overwrite=False)
        self._check(folder.load_config().to_dict(), folder.config)
        checkpoints = folder.checkpoints
        if not checkpoints.steps():
            say(f"{folder.path}: holds no checkpoint; the run starts again")
            rows, timings = folder.rewind(0, write=_is_first())
            self._open()
            return state, Progress(rows, timings)

        step = checkpoints.choose(allow_older=allow_older)
        info = checkpoints.info(step)
        place = checkpoints.step_path(step)
        self._check(TrainConfig.from_json(json.dumps(info["config"])).to_dict(), place)
        lines = differences(info["data"], self._data)
        if info["batch"] > self._config.batches:
            lines.append(
                f"batches: {info['batch']} are done in the checkpoint, {self._config.batches} asked for here"
            )
        if lines:
            raise mismatch(place, lines)
        like = state
        if info["start"]:
            x, labels = self._dataset.train_x, self._dataset.train_y
            size = self._config.batch_size
            batch = (jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype),
                     jax.ShapeDtypeStruct((size,), labels.dtype))  # fmt: skip
            like, _ = eqx.filter_eval_shape(make_step(self._config), state, *batch)
        restored: TrainState = checkpoints.restore(step, like)
        rows, timings = folder.rewind(info["batch"], write=_is_first())
        if _is_first():
            folder.write_config(self._config)
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
        return restored, Progress(rows, timings, info["batch"], info["start"], info["seconds"])

    def between_chunks(self, state: TrainState, progress: Progress) -> None:
        """Saves within a batch if it is time to. `PreemptedError` after saving, if asked to stop."""
        if self._writer is not None:
            self._stop_if_asked(state, progress)
            if self._policy.is_due(None, self._writer.last_save):
                self.save(state, progress)

    def after_batch(self, state: TrainState, progress: Progress) -> None:
        """Writes the last row, and saves if it is time to; see `between_chunks`."""
        if self.folder is None or self._writer is None:
            return
        if _is_first():
            self.folder.append_metrics(progress.rows[-1], progress.seconds)
        self._stop_if_asked(state, progress)
        if self._policy.is_due(progress.batch, self._writer.last_save):
            self.save(state, progress)

    def save(self, state: TrainState, progress: Progress, *, wait: bool = False) -> None:
        """Saves a checkpoint, unless the newest one is of this moment (or, where a batch has to be
        given up, of a later one)."""
        if self._writer is None or self.folder is None:
            return
        step = self._step(progress)
        if self._saved is None or step > self._saved:
            self.folder.sync_metrics()
            info = {
                "config": self._config.to_dict(),
                "data": self._data,
                "versions": _versions(),
                "batch": progress.batch,
                "start": progress.start,
                "seconds": progress.seconds,
                "metrics": progress.rows[-1] if progress.rows else {},
            }
            metrics = None if progress.start else _evaluation(progress)
            self._writer.save(step, state, info, metrics)
            self.blocked.append(self._writer.blocked)
            self._saved = step
        if wait:
            self._writer.wait()

    def _open(self) -> None:
        assert self.folder is not None
        chunks = self._chunks
        every = self._retention.every
        retention = Retention(
            self._retention.latest, None if every is None else every * chunks,
            self._retention.best, self._retention.metric,
        )  # fmt: skip
        writer = CheckpointWriter(self.folder.checkpoints.path, retention)
        self._writer = self._stack.enter_context(writer)

    @cached_property
    def _data(self) -> dict[str, Any]:
        """Name, shapes and checksum of the training examples."""
        digest = hashlib.sha256()
        arrays = {"train_x": self._dataset.train_x, "train_y": self._dataset.train_y}
        for array in arrays.values():
            digest.update(np.ascontiguousarray(array).data)
        shapes = {name: list(array.shape) for name, array in arrays.items()}
        return {"data": self._dataset.name, **shapes, "sha256": digest.hexdigest()}

    @property
    def _chunks(self) -> int:
        return -(-self._config.steps // self._config.chunk_steps)

    def _step(self, progress: Progress) -> int:
        return progress.batch * self._chunks + progress.start // self._config.chunk_steps

    def _stop_if_asked(self, state: TrainState, progress: Progress) -> None:
        assert self._preemption is not None and self.folder is not None
        if self._preemption.reached():
            self.save(state, progress, wait=True)
            raise PreemptedError(
                f"asked to stop: saved after batch {progress.batch}"
                + (f", step {progress.start}" if progress.start else "")
                + f"; --resume --run-dir {self.folder.path} continues"
            )

    def _check(self, saved: dict[str, Any], place: Path) -> None:
        here = self._config.to_dict()
        may_change = set(MAY_CHANGE) - ({"batches"} if self._config.changes_over_run else set())
        fixed = [
            {name: value for name, value in fields.items() if name not in may_change}
            for fields in (saved, here)
        ]
        lines = differences(fixed[0], fixed[1])
        if lines:
            raise mismatch(place, lines)


def _evaluation(progress: Progress) -> dict[str, float] | None:
    row = progress.rows[-1] if progress.rows else {}
    found = {name: value for name, value in row.items() if isinstance(value, float)}
    return found if "test_accuracy" in row else None


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in _PACKAGES}


def _is_first() -> bool:
    """Whether this process writes what all share."""
    return jax.process_index() == 0
