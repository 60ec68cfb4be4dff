"""Steps a second of `train` beside a bare loop of the same jitted step: `python -m benchmarks.trainer`.

The network is 784-128-128-10 on random examples, batch 256. The bare loop hands the same batches to a step
that was compiled in the same way, and waits once, at its end. Both take turns; the figures are medians.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import jax

from pjax_prim.tasks.random import task
from pjax_prim.training import Method, RunFolder, TrainConfig, train
from pjax_prim.training.config import Solver
from pjax_prim.training.parts import Parts
from pjax_prim.training.placing import Packed


def bare(parts: Parts, batches: int) -> tuple[float, float]:
    """Wall and CPU seconds of a step in a bare loop."""
    packed = Packed.of(parts.init())
    stream = parts.stream.read(parts.stream.start, batches)
    batch = parts.placing.batch(next(stream)[0], None)
    jitted, _ = parts.placing.jit(parts.make_step(), packed, batch)
    leaves, _ = jax.block_until_ready(jitted(packed.leaves, batch))
    began = time.perf_counter(), time.process_time()
    for rows, _ in stream:
        leaves, _ = jitted(leaves, parts.placing.batch(rows, None))
    jax.block_until_ready(leaves)
    ended = time.perf_counter(), time.process_time()
    return tuple((b - a) / (batches - 1) for a, b in zip(began, ended, strict=True))  # type: ignore[return-value]


def trained(made: Any, config: TrainConfig, folder: Path | None) -> tuple[float, float]:
    """Wall and CPU seconds of a step in `train`, from the second batch to the last but one."""
    seen: list[tuple[float, float]] = []

    def note(row: dict[str, Any]) -> None:
        seen.append((time.perf_counter(), time.process_time()))

    train(made, config, None if folder is None else RunFolder(folder), on_batch=note)
    first, last = len(seen) // 10, len(seen) - 20
    return tuple((seen[last][i] - seen[first][i]) / (last - first) for i in (0, 1))  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--solver", choices=get_args(Solver), default="adam")
    parser.add_argument("--batches", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if options.batches < 100:
        parser.error(f"--batches: expected at least 100, given {options.batches}")
    made = replace(task(), evaluate={}, best=None)
    method = Method(solver=options.solver, steps_per_batch=1)
    config = TrainConfig(method=method, batches=options.batches, eval_every=options.batches)
    parts = Parts.make(made, config)
    found: dict[str, list[tuple[float, float]]] = {"bare": [], "train": [], "train_in_folder": []}
    for _ in range(options.repeats):
        found["bare"].append(bare(parts, options.batches))
        found["train"].append(trained(made, config, None))
        with tempfile.TemporaryDirectory() as folder:
            found["train_in_folder"].append(trained(made, config, Path(folder) / "run"))
    figures: dict[str, Any] = {}
    for name, times in found.items():
        for index, kind in enumerate(("wall_ms", "cpu_ms")):
            figures[f"{name}_{kind}"] = 1e3 * statistics.median(x[index] for x in times)
    for name in ("train", "train_in_folder"):
        for kind in ("wall", "cpu"):
            figures[f"{name}_{kind}_ratio"] = figures[f"{name}_{kind}_ms"] / figures[f"bare_{kind}_ms"]
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
