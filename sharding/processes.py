"""Several processes that run one program: starting together, agreeing, and ending together."""

import contextlib
import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jaxtyping import Array

from .._compat import coordination_client, coordinator_address
from ..errors import ArgumentError, LostProcessError, ProcessError
from .aborts import end_without_service
from .heartbeats import Heartbeats
from .rendezvous import meet

Result = TypeVar("Result")
_BROKEN = re.compile(
    r"^(UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED)\b|\bgloo\b|coordination service|heartbeat"
    r"|connection (reset|closed|refused)|barrier timed out",
    re.IGNORECASE,
)
"""What messages about broken connections say, and others do not: their status, or their source in full."""

_numbers = count()
"""The numbers of all meetings of this process, of any group: keys of the service are never used twice."""

GONE = 70
"""Exit status of a process that lost the others."""


def leave(status: int = GONE) -> NoReturn:
    """Ends a process that lost the others, or leaves them; an ordinary end would wait for them once more."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


@dataclass(frozen=True)
class Group:
    """The processes of a run, of which this is one.

    **Arguments:** `timeout`, the seconds after which the others count as gone.
    """

    timeout: float = 300.0

    @property
    def is_first(self) -> bool:
        """Whether this process writes what all share."""
        return jax.process_index() == 0

    def together(
        self,
        what: str,
        make: Callable[[], Result],
        describe: Callable[[Result], dict[str, Any]] = lambda _: {},
    ) -> Result:
        """`make()` on all processes; none goes on unless it succeeded on all, with equal results.

        Hashes are compared through the coordination service. `make` must use no collective: where it fails
        on one process, the others would wait for that one inside theirs.

        **Arguments:** `what`, in words; `describe(result)`, the fields to be equal, ready for JSON.

        **Errors:** on the process concerned what `make` raises; on all others a `ProcessError` that
        quotes it. `ProcessError` on all that names each field that differs; `LostProcessError` that
        names the process that does not answer.
        """
        client = coordination_client()
        if client is None or jax.process_count() == 1:
            return make()
        failure: Exception | None = None
        fields: dict[str, Any] = {}
        try:
            result = make()
            fields = describe(result)
        except Exception as error:  # of any kind: the others must not wait for this process
            failure = error
        place = f"pjax_prim/{next(_numbers)}"
        text = json.dumps(fields, sort_keys=True, default=str)
        mine = {
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "fields": json.loads(text),
            "error": None if failure is None else str(failure) or type(failure).__name__,
        }
        client.key_value_set(f"{place}/{jax.process_index()}", json.dumps(mine))
        answers = [self._answer(client, what, f"{place}/{i}", i) for i in range(jax.process_count())]
        if failure is not None:
            raise failure
        for number, answer in enumerate(answers):
            if answer["error"] is not None:
                raise ProcessError(f"{what}: process {number} stopped: {answer['error']}")
        lines = [
            f"{name}: process 0 has {answers[0]['fields'].get(name)!r}, process {number} has "
            f"{answer['fields'].get(name)!r}"
            for number, answer in enumerate(answers)
            if answer["sha256"] != answers[0]["sha256"]
            for name in sorted({*answers[0]["fields"], *answer["fields"]})
            if answer["fields"].get(name) != answers[0]["fields"].get(name)
        ]
        if lines:
            raise ProcessError(f"{what} differs between processes: " + "; ".join(lines))
        return result

    def _answer(self, client: Any, what: str, key: str, process: int) -> dict[str, Any]:
        try:
            return dict(json.loads(client.blocking_key_value_get(key, int(1000 * self.timeout))))
        except jax.errors.JaxRuntimeError as error:
            raise LostProcessError(
                f"{what}: no answer from process {process} of {jax.process_count()} within "
                f"{self.timeout:g} s ({_first_line(error)})"
            ) from None

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Work that needs all processes, such as a step.

        **Errors:** `LostProcessError` where the others cannot be reached. After `timeout` seconds the
        process ends with a message and status `GONE`, for a collective cannot be interrupted.
        """
        if jax.process_count() == 1:
            yield
            return
        timer = threading.Timer(self.timeout, self._expire, (what,))
        timer.daemon = True
        timer.start()
        try:
            with self.connected(what):
                yield
        finally:
            timer.cancel()

    @contextlib.contextmanager
    def watching(self, what: str) -> Iterator[None]:
        """Work that needs all processes and may take any time, such as a save.

        **Errors:** as of `waiting`; but the process ends only where another has given no sign of life for
        `timeout` seconds.
        """
        client = coordination_client()
        if client is None or jax.process_count() == 1:
            yield
            return
        with _heartbeats(client, self.timeout).watching(lambda: self._expire(what)), self.connected(what):
            yield

    @contextlib.contextmanager
    def connected(self, what: str) -> Iterator[None]:
        """Work in which the connection to other processes may break, which is a `LostProcessError`."""
        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            if jax.process_count() == 1 or not _BROKEN.search(str(error)):
                raise
            raise LostProcessError(
                f"{what}: another process of this run is gone or cannot be reached; start all of them "
                f"again ({_first_line(error)})"
            ) from error

    def _expire(self, what: str) -> None:
        print(
            f"pjax-prim: error: {what}: process {jax.process_index()} waited {self.timeout:g} s for the "
            "others; at least one of them is gone or stuck. Start all of them again.",
            file=sys.stderr,
        )
        leave()


@cache
def _heartbeats(client: Any, timeout: float) -> Heartbeats:
    """The heartbeats of this process, from the first time on that it watches others."""
    return Heartbeats(client, timeout)


def start(
    coordinator: str | None, num_processes: int | None, process_id: int | None, timeout: float
) -> Group:
    """Joins the processes of a run; before anything else that uses JAX's devices.

    **Arguments:** None is taken from the environment (Cloud TPU, SLURM, Open MPI, Kubernetes) if
    another is given; if all are None, this is the only process. `coordinator` "auto" leaves everything to
    the environment.

    **Errors:** `ArgumentError` for values that do not fit together, `LostProcessError` where the others do
    not come within `timeout` seconds.
    """
    if not timeout > 0:
        raise ArgumentError(f"process_timeout: expected a number of seconds above 0, given {timeout}")
    if coordinator is None and num_processes is None and process_id is None:
        return Group(timeout)
    if num_processes is not None and num_processes < 1:
        raise ArgumentError(f"num_processes: expected at least 1, given {num_processes}")
    if process_id is not None and not 0 <= process_id < (num_processes or process_id + 1):
        raise ArgumentError(f"process_id: expected 0 to {(num_processes or 1) - 1}, given {process_id}")
    seconds = max(1, round(timeout))
    if coordinator not in (None, "auto") and num_processes is not None and process_id is not None:
        meet(coordinator, num_processes, process_id, timeout)
    try:
        jax.distributed.initialize(
            None if coordinator == "auto" else coordinator,
            num_processes,
            process_id,
            initialization_timeout=seconds,
            # JAX aborts a process that misses another; `Group.waiting` ends it before, with a message.
            heartbeat_timeout_seconds=10 * seconds,
            shutdown_timeout_seconds=min(seconds, 30),
        )
    except (RuntimeError, ValueError) as error:
        raise LostProcessError(
            f"coordinator: process {process_id} of {num_processes} could not join {coordinator} within "
            f"{timeout:g} s ({_first_line(error)})"
        ) from None
    address = coordinator_address()
    if address is not None and jax.process_index() != 0:
        end_without_service(address, leave)
    return Group(timeout)


def local_rows(sharding: NamedSharding, rows: int) -> np.ndarray:
    """Which rows of an array of `rows` rows the devices of this process hold, in order."""
    held: set[int] = set()
    for index in sharding.addressable_devices_indices_map((rows,)).values():
        held.update(range(*index[0].indices(rows)) if index else range(rows))
    return np.array(sorted(held))


def from_local_rows(sharding: NamedSharding, local: np.ndarray, rows: int) -> Array:
    """An array of `rows` rows of all processes, from those of this one (`local_rows`)."""
    return jax.make_array_from_process_local_data(sharding, local, (rows, *local.shape[1:]))


def distribute(array: Any, sharding: NamedSharding) -> Array:
    """An array that every process has whole, where the sharding puts it."""
    if jax.numpy.issubdtype(array.dtype, jax.dtypes.prng_key):
        data = distribute(jax.random.key_data(array), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
    whole = np.asarray(array)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


_AT_ONCE = 1 << 28
"""Bytes of an array that every process has whole at the same time, at most, while the first one gathers
it."""


def whole(tree: Any, keep: bool = True) -> Any:
    """A tree with every array whole on this process; all processes call it together.

    **Arguments:** `keep`: whether this process wants them, in the memory of its host where JAX has the CPU,
    too; elsewhere arrays stay as they are, and no more than a part of one is there at a time.
    """

    def gather(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.is_fully_addressable:
            return x
        if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(gather(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        found = fetched(x)
        return _on_host(found) if keep else x

    def fetched(x: Any) -> Any:
        if x.nbytes <= _AT_ONCE or not x.ndim:
            return multihost_utils.process_allgather(x, tiled=True)
        rows = max(1, _AT_ONCE * len(x) // x.nbytes)
        parts = (
            multihost_utils.process_allgather(x[i : i + rows], tiled=True) for i in range(0, len(x), rows)
        )
        if keep:
            return np.concatenate([*parts])
        for _ in parts:
            pass
        return None

    return jax.tree.map(gather, tree)


def _on_host(array: Any) -> Array:
    try:
        return jax.device_put(array, jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # the program's platforms do not have it
        return jax.numpy.asarray(array)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
