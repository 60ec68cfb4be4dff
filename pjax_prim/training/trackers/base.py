"""What a tracker is, and several of them together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from ...errors import ArgumentError
from ..run_folder import RunFolder

Figures = Mapping[str, float]
"""Numbers by name; a figure that is not finite is left out."""


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run that begins or goes on.

    - `name`: the names of task and method.
    - `folder`: the run folder; None for a run that leaves nothing.
    - `configuration`: the task's options and the `TrainConfig`, as in `config.json`.
    - `batches`: the batches of the whole run; `done`, those that were finished before.
    - `identity`: what `Tracker.start` returned when the run began; None for a run that begins.
    """

    name: str
    folder: RunFolder | None
    configuration: Mapping[str, Any]
    batches: int
    done: int = 0
    identity: str | None = None


class Tracker(Protocol):
    """Takes the figures of a run. Only the first of several processes has any."""

    def start(self, run: TrackedRun) -> str | None:
        """Begins, or goes on with what it began under `run.identity`.

        **Returns:** by what to go on when the run is resumed, if anything is needed for that.
        """

    def log(self, batch: int, figures: Figures) -> None:
        """Takes the figures of a batch. After a resume, batches since the last checkpoint come once more,
        with the same figures."""

    def finish(self, error: BaseException | None) -> None:
        """Ends tracking; `error` is what ended the run, if that was not its last batch."""


class Trackers:
    """Some trackers by name, as a context manager that finishes them.

    One that fails while the run trains is reported at once and left out from then on: the run is worth more
    than its tracker, and `metrics.jsonl` holds every row. One that cannot start ends the run.

    **Arguments:** `say`: takes what is worth telling.
    """

    def __init__(self, trackers: Mapping[str, Tracker], say: Callable[[str], None]):
        self._trackers = trackers
        self._say = say
        self._started: dict[str, Tracker] = {}
        self.failed: dict[str, str] = {}
        """The trackers that failed, each with when and why."""

    def start(self, run: Callable[[str | None], TrackedRun], identities: Mapping[str, str]) -> dict[str, str]:
        """Starts each with the run of its identity; returns all identities, also those not used now.

        **Errors:** `ArgumentError` that names the one that cannot start.
        """
        found = dict(identities)
        for name, tracker in self._trackers.items():
            try:
                identity = tracker.start(run(identities.get(name)))
            except ArgumentError:
                raise
            except Exception as error:  # of any package
                raise ArgumentError(f"tracker: {name}: could not start ({_reason(error)})") from error
            self._started[name] = tracker
            if identity is not None:
                found[name] = identity
        return found

    def log(self, rows: Sequence[Mapping[str, Any]], timings: Figures) -> None:
        """Hands on rows of metrics; the figures of time belong to the last of them."""
        for row in rows:
            figures = {name: float(x) for name, x in row.items() if name != "batch" and x is not None}
            if row is rows[-1]:
                figures |= timings
            for name, tracker in [*self._started.items()]:
                self._attempt(name, f"at batch {row['batch']}", tracker.log, row["batch"], figures)

    def _attempt(self, name: str, when: str, call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
        except Exception as error:  # of any package
            del self._started[name]
            self.failed[name] = f"{when}: {_reason(error)}"
            self._say(
                f"tracker {name} failed {self.failed[name]}; the run goes on without it, "
                "and metrics.jsonl holds every row"
            )

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, tracker in [*self._started.items()]:
            self._attempt(name, "at its end", tracker.finish, error)


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
