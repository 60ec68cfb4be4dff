"""Running a cell in a process of its own (`python -m benchmarks.paper.run CONFIG FOLDER`)."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

from pjax_prim.errors import NonFiniteError
from pjax_prim.feasibility import FeasibilityProblem
from pjax_prim.stepping import make_problem
from pjax_prim.tasks import TaskFile
from pjax_prim.training import RunFolder, Task, TaskLoss, TrainConfig, train
from pjax_prim.training.configuration import to_plain
from pjax_prim.training.figures import peak_bytes
from pjax_prim.training.parts import Parts

from .cells import Budget, Cell

Result = dict[str, Any]


def run_cell(cell: Cell, data_dir: Path | None, budget: Budget, out: Path, memory: float) -> Result:
    """The result of a cell: read if it is there, else trained, from where it was interrupted, and written.

    **Arguments:** `memory`: bytes that a run may take.

    **Returns:** see `train_cell`, or `skipped`: why there is no result.
    """
    config = cell.config(budget)
    file, options = cell.options(data_dir, budget)
    fields = {"task": file.label, "options": to_plain(options.network), "train": config.to_dict()}
    path = out / "cells" / f"{cell}.json"
    if path.exists():
        found: Result = json.loads(path.read_text())
        if found["config"] != fields:
            raise SystemExit(f"{path}: of other settings; delete it or name another --out")
        return found
    needed = 3 * state_bytes(file.make(options), config)
    if needed > memory:
        result: Result = {"skipped": f"needs about {needed / 1e9:.0f} GB"}
    else:
        folder = str(out / "runs" / str(cell))
        given = {"name": file.label, "options": to_plain(options), "train": config.to_dict()}
        command = [sys.executable, "-m", "benchmarks.paper.run", json.dumps(given), folder]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"{cell}: its process ended with status {done.returncode}")
        result = json.loads(done.stdout.splitlines()[-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result | {"config": fields}))
    part.replace(path)
    return {**result, "config": fields}


def train_cell(given: dict[str, Any], folder: Path) -> Result:
    """Trains, or trains on.

    **Returns:** at each evaluation `test_accuracy`, `test_loss` (nats), the `samples` seen and the `seconds`
    spent in steps; `step_ms`, of a batch; `peak_bytes` of this process; `sizes` of training and test set;
    `baseline`, name and accuracy.
    """
    file = TaskFile.of_origin(given)
    task, config = file.make(file.read_options(given["options"])), TrainConfig.from_dict(given["train"])
    try:
        result = train(task, config, RunFolder(folder), resume=True)
    except NonFiniteError as error:
        return {"skipped": f"not finite: {error}"}
    evaluated = [(r, s) for r, s in zip(result.rows, result.timings, strict=True) if "test_accuracy" in r]
    return {
        "test_accuracy": [row["test_accuracy"] for row, _ in evaluated],
        "test_loss": [row["test_loss"] for row, _ in evaluated],
        "samples": [row["batch"] * given["options"]["network"]["batch_size"] for row, _ in evaluated],
        "seconds": [seconds for _, seconds in evaluated],
        "step_ms": 1e3 * result.timings[-1] / len(result.rows),
        "peak_bytes": peak_bytes(),
        "sizes": [task.evaluate[name].examples for name in ("train", "test")],
        "baseline": task.baselines["test_accuracy"],
    }


def state_bytes(task: Task, config: TrainConfig) -> int:
    """Bytes of the state of a projection solver on one batch, 0 for others. Nothing is compiled."""
    if not config.method.projects:
        return 0
    solver = config.method.make_solver()
    parts = Parts.make(task, config)
    model, state, key = parts.shapes.model, parts.shapes.model_state, parts.shapes.key
    problem = FeasibilityProblem.of(TaskLoss(task).value, *task.split(model), state, parts.batch, key)
    graph, arrays = problem.graph_for(solver), problem.arrays
    state = jax.eval_shape(lambda a: solver.init(make_problem(graph, solver, a), a[0]), arrays)
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state))


if __name__ == "__main__":
    print(json.dumps(train_cell(json.loads(sys.argv[1]), Path(sys.argv[2]))))
