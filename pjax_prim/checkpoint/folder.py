"""Reading checkpoints: which there are, whether they are whole, and their arrays."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import SingleDeviceSharding
from jaxtyping import PyTree

from ..errors import CheckpointError
from .manifest import damage, read_manifest
from .memory import returning_memory
from .naming import describe, differences, named_arrays, named_settings, with_arrays
from .storage import as_path, storage_of

_READ_AT_ONCE = 100_000_000
STATE = "state"
"""The item of an Orbax checkpoint that holds the arrays."""


@dataclass(frozen=True)
class CheckpointFolder:
    """The checkpoints in one folder, each in a folder named by its step. Nothing is written.

    **Arguments:** `path`: on a file system, or as text `gs://bucket/...`; see `as_path`.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", as_path(self.path))

    def steps(self) -> list[int]:
        """The steps of all complete checkpoints, in order; whether they are undamaged is for `verify`.

        **Errors:** `CheckpointError` where that cannot be found out.
        """
        try:
            return storage_of(self.path).steps(self.path)
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read ({error.strerror})") from None

    def step_path(self, step: int) -> Path:
        """The folder of one checkpoint."""
        return self.path / str(step)

    def info(self, step: int) -> dict[str, Any]:
        """What was saved with a checkpoint (see `CheckpointWriter.save`), without its arrays.

        **Errors:** `CheckpointError` where it is absent or damaged.
        """
        info: dict[str, Any] = read_manifest(self.step_path(step))["info"]
        return info

    def bytes(self, step: int) -> int:
        """The size of a checkpoint's files."""
        return sum(file["bytes"] for file in read_manifest(self.step_path(step))["files"].values())

    def verify(self, step: int) -> None:
        """Compares every file with its checksum. All processes must call it together.

        **Errors:** `CheckpointError` naming the first damaged or missing file.

        **Cost:** reads all files once; several processes share the work.
        """
        folder = self.step_path(step)
        count, own = jax.process_count(), jax.process_index()
        problem = None
        try:
            files = list(read_manifest(folder)["files"].items())
            problem = damage(folder, files[own::count])
        except CheckpointError as error:
            problem = str(error)
        if count > 1:  # one process that stops alone would leave the others waiting
            bad = np.flatnonzero(multihost_utils.process_allgather(np.array(problem is not None)))
            if bad.size and problem is None:
                problem = f"{folder}: damaged: see the message of process {bad[0]}"
        if problem is not None:
            raise CheckpointError(problem)

    def choose(self, *, allow_older: bool = False) -> int:
        """The newest checkpoint, verified.

        **Arguments:** `allow_older`: where it is damaged, take the newest one that is not.

        **Errors:** `CheckpointError` where there is none, or the newest is damaged; the message
        says how to use an older one.
        """
        steps = self.steps()
        if not steps:
            raise CheckpointError(f"{self.path}: holds no checkpoint")
        for step in reversed(steps):
            try:
                self.verify(step)
                return step
            except CheckpointError as error:
                if not allow_older:
                    older = [other for other in steps if other < step]
                    help = (
                        f"; older checkpoints: {', '.join(map(str, older))}. To train on from the newest "
                        "undamaged one, allow it (--resume-older); to read one, name it (--step)"
                        if older
                        else "; there is no older checkpoint"
                    )
                    raise CheckpointError(f"{error}{help}") from None
        raise CheckpointError(f"{self.path}: every checkpoint is damaged ({', '.join(map(str, steps))})")

    def restore(self, step: int, like: PyTree) -> PyTree:
        """A tree like the one that was saved, with the saved arrays.

        **Arguments:**

        - `like`: has the saved structure, shapes and dtypes. Its arrays may be `jax.Array`s or
          `jax.ShapeDtypeStruct`s; each is restored into the sharding that it has (the first
          device, where it has none), whatever mesh and number of processes saved it: a device
          reads only its own part. A NumPy array comes back as one. Other leaves are taken from
          `like`.

        **Errors:** `CheckpointError` that lists every path which differs, with both values.
        Nothing is cast, padded or left out.
        """
        wanted = named_arrays(like)
        info = self.info(step)
        lines = differences(info["arrays"], describe(wanted))
        lines += differences(info["settings"], named_settings(like))
        if lines:
            raise mismatch(self.step_path(step), lines)
        return with_arrays(like, self.read(step, wanted))

    def read(self, step: int, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Some of the arrays of a checkpoint, by name.

        **Arguments:** `wanted`: as the arrays of `like` in `restore`.

        **Errors:** `CheckpointError` for a name, shape or dtype that the checkpoint does not have.
        """
        if not wanted:
            return {}
        saved = self.info(step)["arrays"]
        present = {name: saved[name] for name in wanted if name in saved}
        if lines := differences(present, describe(wanted)):
            raise mismatch(self.step_path(step), lines)
        target = {name: _target(name, array) for name, array in wanted.items()}
        arguments = ocp.checkpoint_utils.construct_restore_args(target)
        # What is read at once must take the largest array, at worst; more would only take memory.
        most = max(math.prod(x.shape) * x.dtype.itemsize for x in target.values()) + 1
        handler = ocp.PyTreeCheckpointHandler(restore_concurrent_gb=max(most, _READ_AT_ONCE) / 1e9)
        with returning_memory(), ocp.Checkpointer(handler) as checkpointer:
            restored: dict[str, Any] = checkpointer.restore(
                storage_of(self.path).absolute(self.step_path(step)) / STATE,
                args=ocp.args.PyTreeRestore(item=target, restore_args=arguments, partial_restore=True),
            )
        return restored


def mismatch(place: Path | str, lines: list[str]) -> CheckpointError:
    """The error that lists what differs."""
    return CheckpointError(f"{place}: does not fit:\n  " + "\n  ".join(lines))


def _target(name: str, array: Any) -> Any:
    if isinstance(array, np.ndarray):
        return array
    sharding = getattr(array, "sharding", None)
    if sharding is None:
        if jax.process_count() > 1:
            raise CheckpointError(
                f"{name}: expected an array with a sharding, since there are several processes"
            )
        sharding = SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)
