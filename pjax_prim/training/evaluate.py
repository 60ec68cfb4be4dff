"""Figures of a model over whole evaluation sets."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax

from ..errors import ArgumentError, DataError
from .task import Task, TaskLoss

Place = Callable[[Any], Any]


class Evaluator:
    """Evaluates models of a task; each kind of batch is compiled once.

    **Arguments:** `place`: puts a batch that was read whole onto the devices; `gathering`: of the function
    that gives the figures, the one that takes parameters as they lie.
    """

    def __init__(
        self,
        task: Task,
        place: Place = jax.device_put,
        gathering: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda figures: figures,
    ):
        self._task = task
        self._place = place
        self._figures = eqx.filter_jit(gathering(TaskLoss(task).figures))

    def __call__(self, model: Any, model_state: Any) -> dict[str, float]:
        """All figures on all evaluation sets of the task, as `SET_FIGURE`.

        **Errors:** `DataError` for a set without batches.
        """
        return {
            f"{name}_{figure}": value
            for name, batches in self._task.evaluate.items()
            for figure, value in self.one(model, model_state, name, batches).items()
        }

    def one(self, model: Any, model_state: Any, name: str, batches: Iterable[Any]) -> dict[str, float]:
        """The figures on one evaluation set."""
        # Read late: batches follow one another without waiting.
        found = [self._figures(model, model_state, self._place(batch)) for batch in batches]
        if not found:
            raise DataError(f"evaluate: {name}: expected batches, found none")
        sums: dict[str, list[float]] = {}
        for values in jax.device_get(found):
            for figure, mean in values.items():
                total = sums.setdefault(figure, [0.0, 0.0])
                total[0] += float(mean.total)
                total[1] += float(mean.weight)
        means = {figure: total / weight if weight else math.nan for figure, (total, weight) in sums.items()}
        return {**means, **derived(means, self._task)}


def derived(means: dict[str, float], task: Task) -> dict[str, float]:
    """What follows from the mean loss: of one in nats bits and perplexity."""
    if not task.nats:
        return {}
    if "loss" not in means:
        raise ArgumentError("nats: expected a figure named loss among the task's metrics, found none")
    loss = means["loss"]
    return {"bits": loss / math.log(2), "perplexity": math.exp(loss) if loss < 700 else math.inf}
