"""MLflow (extra `mlflow`). Its environment says where: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, ..."""

import os
import time
from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from ...errors import PreemptedError
from ..configuration import flat
from .base import Figures, TrackedRun

MANY, SECONDS = 500, 10.0
"""Figures are sent when there are so many, or so long after the last time: each time is a request."""

LONGEST = 6000
"""Characters of a parameter's value."""


class MLflow:
    """Logs to a run of the experiment MLFLOW_EXPERIMENT_NAME (`pjax-prim` if it is not set), and to the same
    after a resume; fields of the configuration that are others then are its tags."""

    def start(self, run: TrackedRun) -> str:
        """Begins a run, or goes on with the one of `run.identity`, its id."""
        self._client = MlflowClient()
        self._waiting: list[Metric] = []
        self._sent = time.monotonic()
        fields = {name: str(x)[:LONGEST] for name, x in flat(run.configuration).items()}
        if run.identity is None:
            name = run.name if run.folder is None else run.folder.path.name
            self._id = str(self._client.create_run(self._experiment(), run_name=name).info.run_id)
            known: Mapping[str, str] = {}
        else:
            self._id = run.identity
            known = self._client.get_run(self._id).data.params
            self._client.update_run(self._id, status="RUNNING")
        params = [Param(name, x) for name, x in fields.items() if name not in known]
        tags = [RunTag(name, x) for name, x in fields.items() if known.get(name, x) != x]
        for start in range(0, max(len(params), len(tags)), 100):  # so many at once are allowed
            part = slice(start, start + 100)
            self._client.log_batch(self._id, params=params[part], tags=tags[part])
        return self._id

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "pjax-prim")
        found = self._client.get_experiment_by_name(name)
        return str(self._client.create_experiment(name) if found is None else found.experiment_id)

    def log(self, batch: int, figures: Figures) -> None:
        """Keeps the figures, and sends those that wait when it is time."""
        now = int(1000 * time.time())
        self._waiting += [Metric(name, value, now, batch) for name, value in figures.items()]
        if len(self._waiting) >= MANY or time.monotonic() - self._sent >= SECONDS:
            self._send()

    def _send(self) -> None:
        while self._waiting:
            self._client.log_batch(self._id, metrics=self._waiting[:MANY])
            del self._waiting[:MANY]
        self._sent = time.monotonic()

    def finish(self, error: BaseException | None) -> None:
        """Sends what waits, and ends the run: finished, killed where it was asked to stop, or failed."""
        self._send()
        stopped = isinstance(error, PreemptedError | KeyboardInterrupt)
        status = "FINISHED" if error is None else "KILLED" if stopped else "FAILED"
        self._client.set_terminated(self._id, status)
