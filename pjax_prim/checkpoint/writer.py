"""Writing checkpoints, in the background, each one whole or not at all."""

import contextlib
import itertools
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jaxtyping import PyTree
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep
from orbax.checkpoint.checkpoint_managers import save_decision_policy as decide

from ..errors import CheckpointError
from .folder import STATE, CheckpointFolder
from .manifest import write_manifest
from .naming import describe, named_arrays, named_settings
from .policy import Retention
from .quiet import Quiet
from .storage import storage_of


class CheckpointWriter:
    """Saves to one folder; a context manager that waits for its saves on exit.

    A checkpoint is written under another name and renamed when all its files and their checksums
    are there (in a bucket it has its name before, and counts from then on). None is ever overwritten,
    and an older one is deleted only after a newer one is complete. What a killed process left half
    written is deleted on entry.

    The caller sees to it that a folder has one writer (`FolderLock`).
    """

    def __init__(self, path: Path, retention: Retention | None = None):
        self.folder = CheckpointFolder(path)
        path = self.folder.path
        self._storage = storage_of(path)
        self.last_save = time.monotonic()
        """When the last save began."""
        self.blocked = 0.0
        """Seconds that the last `save` took its caller."""
        self._pending: tuple[int, dict[str, Any]] | None = None
        self._saving: Future[None] | None = None
        self._failed = False
        # With several processes every save is a meeting of all of them, in one order: it must not
        # run beside the training's own communication, so it runs in the caller's thread.
        self._thread = ThreadPoolExecutor(1, "checkpoint") if jax.process_count() == 1 else None
        self._quiet = Quiet()
        self._quiet.begin()
        try:
            self._manager = ocp.CheckpointManager(
                self._storage.absolute(path),
                options=self._options(retention or Retention()),
                # Weights hardly compress: it would cost more time than it saves.
                item_handlers={STATE: ocp.PyTreeCheckpointHandler(use_compression=False)},
            )
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be written ({error.strerror})") from None

    def _options(self, retention: Retention) -> ocp.CheckpointManagerOptions:
        rules: list[Any] = [keep.LatestN(retention.latest)]
        if retention.every is not None:
            rules.append(keep.EveryNSteps(retention.every))
        best: Callable[[Any], float] | None = None
        if retention.best:
            metric = retention.metric

            def best(metrics: Any) -> float:
                return float(metrics[metric])

            rules.append(
                keep.BestN(get_metric_fn=best, n=retention.best, keep_checkpoints_without_metrics=False)
            )
        return ocp.CheckpointManagerOptions(
            save_decision_policy=decide.FixedIntervalPolicy(1),  # `save` is told when
            preservation_policy=keep.AnyPreservationPolicy(rules),
            best_fn=best,
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(
                post_finalization_callback=self._complete,
                # Else threads of a save whose folder cannot be made wait for it for minutes.
                create_directories_asynchronously=False,
            ),
            save_root_metadata=False,
        )

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failure: CheckpointError | None = None
        try:
            self.wait()
        except CheckpointError as failed:
            failure = failed
        if self._thread is not None:
            self._thread.shutdown()
        for _ in range(2):  # Orbax reports a failed save once more, and then closes
            with contextlib.suppress(Exception):
                self._manager.close()
                break
        if not self._failed and kind is None:
            self._quiet.end()
        if failure is not None and kind is None:
            raise failure

    def save(
        self, step: int, tree: PyTree, info: dict[str, Any], metrics: dict[str, float] | None = None
    ) -> None:
        """Begins to save; a save that is still running is waited for first.

        **Arguments:**

        - `step`: larger than that of every checkpoint in the folder.
        - `tree`: its arrays are saved (see `named_arrays`). They are copied on their devices
          first, so that they may be donated at once.
        - `info`: any JSON; shapes, dtypes and settings of the tree are added to it.
        - `metrics`: what `Retention.best` compares.

        **Errors:** `CheckpointError` where this save cannot begin or the one before failed.

        **Cost:** blocks for one copy on the device; with several processes, until every device's
        arrays are on its host.
        """
        started = time.monotonic()
        self.wait()
        if (steps := self.folder.steps()) and step <= steps[-1]:
            raise CheckpointError(
                f"{self.folder.path}: checkpoint {steps[-1]} exists; a checkpoint is never overwritten, "
                f"and {step} is no later one"
            )
        arrays = named_arrays(tree)
        info = {**info, "step": step, "arrays": describe(arrays), "settings": named_settings(tree)}
        self._pending = step, info
        if self._thread is None:
            self._write(step, arrays, metrics)
        else:
            self._saving = self._thread.submit(self._write, step, _copy(arrays), metrics, wait=True)
        self.last_save = started
        self.blocked = time.monotonic() - started

    def wait(self) -> None:
        """Returns when nothing is being saved. `CheckpointError` where a save failed."""
        if self._saving is not None:
            saving, self._saving = self._saving, None
            saving.result()
        elif self._thread is None and self._pending is not None:
            self._settle(self._pending[0])

    def _write(
        self, step: int, arrays: dict[str, Any], metrics: dict[str, float] | None, wait: bool = False
    ) -> None:
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(**{STATE: ocp.args.PyTreeSave(arrays)}),
                metrics=metrics,
                force=True,
            )
        except Exception as error:
            raise self._failure(step, error) from error
        if wait:
            self._settle(step)

    def _settle(self, step: int) -> None:
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failure(step, error) from error
        self._pending = None

    def _failure(self, step: int, error: Exception) -> CheckpointError:
        self._pending, self._failed = None, True
        if jax.process_index() == 0:
            with contextlib.suppress(OSError):
                for partial in self._storage.unfinished(self.folder.path, step):
                    self._storage.delete(partial)  # it may be what fills the disk
        newest = "there is no complete one"
        try:
            if complete := [other for other in self.folder.steps() if other != step]:
                newest = f"the newest complete one is {complete[-1]}, from which a run can be resumed"
        except CheckpointError as unread:
            newest = str(unread)
        return CheckpointError(
            f"{self.folder.path}: checkpoint {step} could not be written ({_reason(error)}); {newest}"
        )

    def _complete(self) -> None:
        """Called by Orbax, by one process, when all files are there and before they get their name."""
        assert self._pending is not None
        step, info = self._pending
        partial = self._storage.unfinished(self.folder.path, step)
        write_manifest(next(iter(partial), self.folder.step_path(step)), info)


def set_aside(folder: CheckpointFolder, after: int) -> list[Path]:
    """Renames the checkpoints later than step `after`, so that they count no more. In a bucket their objects
    are copied, and the old ones deleted.

    All processes must call it together, before a writer opens.

    **Returns:** their new names, such as `40.damaged`.
    """
    storage = storage_of(folder.path)
    later = [folder.step_path(step) for step in folder.steps() if step > after]
    renamed = {}
    for path in later:
        names = (
            path.with_name(f"{path.name}.damaged{'' if n == 1 else f'.{n}'}") for n in itertools.count(1)
        )
        renamed[path] = next(name for name in names if not storage.exists(name))
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("pjax_prim.checkpoint.set_aside: listed")
    if jax.process_index() == 0:
        for path, target in renamed.items():
            storage.move(path, target)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("pjax_prim.checkpoint.set_aside: renamed")
    return list(renamed.values())


def _copy(arrays: dict[str, Any]) -> dict[str, Any]:
    groups: dict[Any, dict[str, Any]] = {}  # one call takes arrays of one set of devices
    for name, array in arrays.items():
        groups.setdefault(getattr(array, "sharding", None), {})[name] = array
    copies: dict[str, Any] = {}
    for sharding, group in groups.items():
        copies |= {n: np.array(x) for n, x in group.items()} if sharding is None else _copy_on_device(group)
    return copies


@jax.jit
def _copy_on_device(arrays: dict[str, Any]) -> dict[str, Any]:
    return jax.tree.map(jnp.copy, arrays)


def _reason(error: BaseException) -> str:
    """The operating system's words if there are any, else the first line of the message."""
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        if error.__cause__ is None and error.__context__ is None:
            break
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    if code := re.search(r"os_error_code='(\d+)'", str(error)):  # as tensorstore reports it
        return os.strerror(int(code[1]))
    return (str(error).splitlines() or [type(error).__name__])[0]
