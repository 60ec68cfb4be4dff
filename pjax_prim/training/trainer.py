"""The training loop."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx

from .. import data
from ..errors import NonFiniteError
from .config import TrainConfig
from .curves import draw_curves
from .evaluate import accuracy
from .run_folder import RunFolder, params_sha256
from .steps import make_step, non_finite_reason


@dataclass(frozen=True)
class TrainResult:
    """What a finished run has come to.

    **Arguments:**

    - `model`: with its trained parameters.
    - `rows`: as in `metrics.jsonl`. Every row has `batch`, `loss` and `seconds` so far, and for
      projections `gap`; an evaluated one also `train_accuracy` and `test_accuracy`.
    - `seconds`: in training steps, without compiling and evaluating.
    - `compile_seconds`: for tracing and compiling the step.
    """

    config: TrainConfig
    model: Any
    rows: list[dict[str, Any]]
    seconds: float
    compile_seconds: float

    def summary(self) -> dict[str, Any]:
        """The figures of the run; `gap` is that of the last batch, None for adam and sgd."""
        last = self.rows[-1]
        return {
            "test_accuracy": last["test_accuracy"],
            "train_accuracy": last["train_accuracy"],
            "batches": self.config.batches,
            "seconds": self.seconds,
            "compile_seconds": self.compile_seconds,
            "batches_per_second": self.config.batches / self.seconds,
            "gap": last.get("gap"),
            "loss": last["loss"],
            "params_sha256": params_sha256(self.model),
        }


def train(
    config: TrainConfig,
    folder: RunFolder | None = None,
    *,
    overwrite: bool = False,
    on_batch: Callable[[dict[str, Any]], None] | None = None,
) -> TrainResult:
    """Trains a network. The parameters are carried from batch to batch; everything else of a
    projection solver starts anew from the forward pass of each batch.

    **Arguments:**

    - `folder`: where to leave the run; nothing is written if left out.
    - `overwrite`: replaces a run that is already there.
    - `on_batch`: called with each row as it is made (see `TrainResult.rows`).

    **Errors:** `DataError`, `ArgumentError` and `RunError` before anything is compiled.
    `NonFiniteError` if a value is not finite: the model before that batch is saved.
    """
    dataset = config.load_data()
    state, step = make_step(config, config.make_model(dataset))
    if folder is not None:
        folder.create(config, overwrite=overwrite)

    start = time.perf_counter()
    first = data.batch(dataset, config.batch_size, seed=config.seed, step=0)
    jitted: Any = eqx.filter_jit(step)
    compiled = jitted.lower(state, *first).compile()
    compile_seconds = time.perf_counter() - start

    rows: list[dict[str, Any]] = []
    seconds = 0.0
    for index in range(config.batches):
        start = time.perf_counter()
        batch = data.batch(dataset, config.batch_size, seed=config.seed, step=index)
        state, metrics = compiled(state, *batch)
        values = {name: value.item() for name, value in metrics.items()}  # waits for the device
        seconds += time.perf_counter() - start

        if not values.pop("finite"):
            message = f"batch {index + 1}: {non_finite_reason(config, state[0], *batch)}"
            if folder is not None:
                folder.save_model(state[0])
                message += f" Training stopped; the model before it is saved in {folder.model}."
            raise NonFiniteError(message)

        row = {"batch": index + 1, **values, "seconds": seconds}
        if config.is_evaluated(index + 1):
            row["train_accuracy"] = accuracy(state[0], dataset.train_x, dataset.train_y)
            row["test_accuracy"] = accuracy(state[0], dataset.test_x, dataset.test_y)
        rows.append(row)
        if folder is not None:
            folder.append_metrics(row)
        if on_batch is not None:
            on_batch(row)

    if folder is not None:
        folder.save_model(state[0])
        draw_curves(rows, f"{config.data}, {config.model}, {config.solver}", folder.curves)
    return TrainResult(config, state[0], rows, seconds, compile_seconds)


def evaluate_run(folder: RunFolder, data_dir: str | Path | None = None) -> dict[str, Any]:
    """`train_accuracy`, `test_accuracy` and `params_sha256` of the model saved in `folder`.

    **Arguments:** `data_dir`: where the data lie now, if not where they lay for the training.

    **Errors:** `RunError` where the folder holds no finished run, `DataError` for its data.
    """
    config = folder.load_config()
    dataset = config.load_data(data_dir)
    model = folder.load_model(eqx.filter_eval_shape(config.make_model, dataset))
    return {
        "test_accuracy": accuracy(model, dataset.test_x, dataset.test_y),
        "train_accuracy": accuracy(model, dataset.train_x, dataset.train_y),
        "params_sha256": params_sha256(model),
    }
