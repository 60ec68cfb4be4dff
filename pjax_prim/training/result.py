"""What a run has come to."""

from dataclasses import dataclass, field
from typing import Any

from .config import TrainConfig
from .figures import first_within, peak_bytes
from .run_folder import params_sha256
from .state import TrainState, judged_by
from .task import Task


@dataclass(frozen=True)
class TrainResult:
    """What a finished run has come to.

    **Arguments:**

    - `model`: with its trained parameters: the last ones, or their moving average (`TrainConfig.average`). Of
      several processes the first one has it whole, the others have none of it.
    - `state`: the last one.
    - `rows`: as in `metrics.jsonl`, those before a resume included. Every row has `batch` and `loss`, the
      metrics of the loss, for projections `gap`, and `skipped` for a batch that was left out; an evaluated
      one also the figures of the evaluations.
    - `timings`: after each row the seconds in training steps, without compiling and evaluating.
    - `seconds`: of this process, by what they went to (`Clock`).
    - `blocked`: the seconds that each save of a checkpoint took the training.
    - `failed_trackers`: of each tracker that failed, when and why.
    - `batch_size`: examples in a batch.
    """

    task: Task
    config: TrainConfig
    model: Any
    state: TrainState
    rows: list[dict[str, Any]]
    timings: list[float]
    seconds: dict[str, float]
    blocked: list[float] = field(default_factory=list)
    failed_trackers: dict[str, str] = field(default_factory=dict)
    batch_size: int = 0

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """The rows that were evaluated."""
        return [row for row in self.rows if self.task.has_figures(row)]

    def nearly_best(self) -> dict[str, Any]:
        """Where the figure that evaluations are judged by was first within 1% of its best: `samples_to_99`,
        examples with repetitions, and `seconds_to_99`, in training steps; None without evaluations."""
        judge = judged_by(self.config, self.task)
        sign, name = (1.0, "") if judge is None else judge
        place = first_within([row.get(name) for row in self.rows], sign)
        if place is None:
            return {"samples_to_99": None, "seconds_to_99": None}
        samples = self.rows[place]["batch"] * self.batch_size
        return {"samples_to_99": samples, "seconds_to_99": self.timings[place]}

    def summary(self) -> dict[str, Any]:
        """The figures of the run: of the last row (`gap` is None where nothing measures it), of its time, of
        the `samples` seen, and `peak_bytes` of memory."""
        last = {name: value for name, value in self.rows[-1].items() if name != "batch"}
        seconds = self.timings[-1]
        total = sum(self.seconds.values())
        return {
            "gap": None,
            **last,
            "batches": len(self.rows),
            "samples": len(self.rows) * self.batch_size,
            **self.nearly_best(),
            "peak_bytes": peak_bytes(),
            "skipped": int(self.state.skipped),
            "seconds": seconds,
            "compile_seconds": self.seconds["compile"],
            "batches_per_second": len(self.rows) / seconds,
            "goodput": self.seconds["steps"] / total if total else None,
            "params_sha256": params_sha256(self.model),
        }
