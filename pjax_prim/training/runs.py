"""The model of a run that is there: loaded, and evaluated."""

from typing import Any

import equinox as eqx
import jax

from ..checkpoint import WHICH, restore_params, restore_part
from ..errors import ArgumentError, RunError
from .evaluate import Evaluator
from .run_folder import RunFolder, params_sha256
from .task import Task


def load_run_model(
    task: Task, folder: RunFolder, *, which: str | None = None, step: int | None = None
) -> tuple[Any, Any]:
    """The model of a run's newest checkpoint, or of the one named, and the model's state.

    A folder without checkpoints has its model in `model.eqx`.

    **Arguments:** `which`: as of `restore_params`.

    **Errors:** `RunError` where there is none; see `restore_params`.
    """
    if which is not None and which not in WHICH:
        raise ArgumentError(f"parameters: expected one of {', '.join(WHICH)}, given {which!r}")
    config = folder.load_config()
    own = "averaged" if config.decay else "last"
    which = which or own
    like, state = eqx.filter_eval_shape(lambda: task.make_model(jax.random.key(config.seed)))
    if folder.checkpoints.steps() or step is not None:
        model = restore_params(folder.path, like, step=step, which=which)
        if which == "averaged":  # a mean of points of a set need not be in it
            trained, fixed = task.split(model)
            model = eqx.combine(task.restrict(trained), fixed)
        if state is not None:
            state = restore_part(folder.path, state, "model_state", step=step)
        return model, state
    if which != own or state is not None:
        raise RunError(f"{folder.path}: holds no checkpoint, so no {which} parameters")
    return folder.load_model(like), None


def evaluate_run(
    task: Task, folder: RunFolder, *, which: str | None = None, step: int | None = None
) -> dict[str, Any]:
    """All figures of a run's newest checkpoint on the task's evaluation sets, and `params_sha256`.

    **Arguments:** `which` and `step` as in `load_run_model`.

    **Errors:** `RunError` where the folder holds no checkpoint and no finished run, `DataError` for its data.
    """
    model, state = load_run_model(task, folder, which=which, step=step)
    return {**Evaluator(task)(model, state), "params_sha256": params_sha256(model)}
