"""Hard functions by displacement, beside straight-through and surrogate gradients.

    python -m benchmarks.hard --data-dir DIR --fashion-dir DIR

The five networks of PolyStep's table (arXiv 2605.01928), written with their hard functions in
`examples/hard`. Each method has the learning rate that is best on held-out training examples; then it
trains on all of them, from the same initial weights on the same batches as the others, and is judged by
the test set. A run that is in the folder of results is not run again. Leaves results.json, table.md and a
picture there.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import report
from .networks import ROWS, load
from .run import Trainer, choose_rate, step_times

OUT = Path("benchmarks/results/hard")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hard",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="the folder of MNIST's files")
    parser.add_argument("--fashion-dir", type=Path, required=True, help="the folder of Fashion-MNIST's files")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--methods", nargs="+", help="by their names in the table; all if left out")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tuning-seeds", type=int, default=3, help="for each learning rate")
    parser.add_argument("--times", action="store_true", help="measure the time of steps, and nothing else")
    parser.add_argument("--out", type=Path, default=OUT, help="the folder of results")
    options = parser.parse_args(arguments)
    folders = {"mnist": options.data_dir, "fashion-mnist": options.fashion_dir}
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "results.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}

    def save() -> None:
        file.write_text(json.dumps(results, indent=1) + "\n")
        report.write(results, options.out)

    def say(text: str) -> None:
        print(text, flush=True)

    for name in options.rows:
        dataset = load(name, folders)
        of_row = results.setdefault(name, {"methods": {}})
        if options.times:
            of_row["step_ms"] = step_times(name, ["displacement", *ROWS[name].estimators], dataset)
            say(f"{name}: {of_row['step_ms']}")
            save()
            continue
        for method in ROWS[name].methods:
            if options.methods and method not in options.methods:
                continue
            found = of_row["methods"].setdefault(method, {"held_out": [], "runs": []})
            rate = choose_rate(name, method, dataset, found["held_out"], options.tuning_seeds, say)
            found["rate"], found["runs"] = rate, [run for run in found["runs"] if run["rate"] == rate]
            save()
            missing = set(range(options.seeds)) - {run["seed"] for run in found["runs"]}
            if not missing:
                continue
            trainer = Trainer(name, method, dataset, held_out=0)
            for seed in sorted(missing):
                found["runs"].append(trainer.run(found["rate"], seed))
                say(f"{name}, {method}, seed {seed}: {found['runs'][-1]['accuracy']:.2f}%")
                save()
    print(report.table(results))


if __name__ == "__main__":
    main()
