"""CIFAR-10 with a certified Lipschitz bound: `python -m benchmarks.lipschitz --data-dir DIR --out DIR`.

The network of arXiv 2507.13338 (an MLP of width 256), by Adam and by displacements, free and with every
weight matrix restricted to a largest singular value. Pixels are from 0 to 1. "certified" is the share of test
images whose class no change of Euclidean length `RADIUS` can change, by the bound alone.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import pjax_prim as pjp
from pjax_prim.data import load_cifar10
from pjax_prim.tasks.classification import Classifier, classification
from pjax_prim.training import Method, TrainConfig, train

RADIUS = 36 / 255
HEADING = ("method", "cap", "seed", "test accuracy", "train accuracy", "bound", "certified", "ms a batch")


def measure(
    task: Any, dataset: Any, solver: Any, cap: float | None, options: Any, seed: int
) -> tuple[str, ...]:
    """One run, as a row of the table."""
    restrictions = None if cap is None else {"layers.*.weight": pjp.SpectralNorm(cap)}
    method = Method(solver=solver, learning_rate=options.learning_rate, schedule="cosine")
    config = TrainConfig(method=method, batches=options.batches, eval_every=options.batches, seed=seed)
    result = train(replace(task, restrictions=restrictions), config)
    row, model = result.rows[-1], result.model
    bound = pjp.lipschitz_bound(model, jax.ShapeDtypeStruct((dataset.features,), jnp.float32))
    logits = np.asarray(jax.vmap(model)(jnp.asarray(dataset.test_x)), np.float64)
    right = np.take_along_axis(logits, dataset.test_y[:, None], -1)[:, 0]
    others = np.where(np.arange(dataset.classes) == dataset.test_y[:, None], -np.inf, logits).max(-1)
    certified = np.mean(right - others > np.sqrt(2) * bound * RADIUS)
    return (
        solver,
        "none" if cap is None else f"{cap:g}",
        str(seed),
        f"{row['test_accuracy']:.2%}",
        f"{row['train_accuracy']:.2%}",
        f"{bound:.4g}",
        f"{certified:.2%}",
        f"{1000 * result.timings[-1] / options.batches:.1f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="a folder for the table")
    parser.add_argument("--caps", type=float, nargs="+", default=[1.0, 2.0])
    parser.add_argument("--methods", nargs="+", default=["adam", "displacement"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--batches", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    options = parser.parse_args()
    dataset = load_cifar10(options.data_dir)
    task = classification(dataset, Classifier(hidden=(256, 256), batch_size=options.batch_size))
    rows = [f"| {' | '.join(HEADING)} |", "|" + "---|" * len(HEADING)]
    for cap in (None, *options.caps):
        for solver in options.methods:
            for seed in options.seeds:
                rows.append(f"| {' | '.join(measure(task, dataset, solver, cap, options, seed))} |")
                print(rows[-1], flush=True)
    sizes = f"{len(dataset.train_x)} training and {len(dataset.test_x)} test images"
    command = (
        "`python -m benchmarks.lipschitz --data-dir DIR"
        f" --caps {' '.join(f'{cap:g}' for cap in options.caps)} --seeds {' '.join(map(str, options.seeds))}"
        f" --batches {options.batches} --batch-size {options.batch_size}"
        f" --learning-rate {options.learning_rate:g}`"
    )
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "table.md").write_text(f"{command}, {sizes}\n\n" + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
