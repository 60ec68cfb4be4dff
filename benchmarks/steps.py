"""Step times and memory of the solvers as a Markdown table: `python -m benchmarks.steps`."""

import argparse
import itertools
from typing import get_args

from pjax_prim.tasks.classification import Classifier
from pjax_prim.tasks.random import task
from pjax_prim.training.benchmark import CASES, Call, case_of, compare

COLUMNS = {
    "step ms": lambda f: f"{f['step_ms']:.2f}",
    "Adam step ms": lambda f: f"{f['adam_step_ms']:.2f}",
    "step / Adam": lambda f: f"{f['ratio_to_adam']:.2f}",
    "products ms": lambda f: f"{f['products_ms']:.2f}",
    "step / products": lambda f: f"{f['ratio_to_products']:.2f}",
    "copy ms": lambda f: f"{f['floor_ms']:.2f}",
    "step / copy": lambda f: f"{f['ratio_to_floor']:.2f}",
    "copy in place ms": lambda f: f"{f['in_place_floor_ms']:.2f}",
    "step / copy in place": lambda f: f"{f['ratio_to_in_place_floor']:.2f}",
    "state MB": lambda f: f"{f['state_bytes'] / 1e6:.2f}",
    "peak MB": lambda f: f"{f['peak_bytes'] / 1e6:.2f}",
    "peak / Adam's": lambda f: f"{f['peak_bytes'] / f['adam_peak_bytes']:.2f}",
    "peak / state": lambda f: f"{f['peak_bytes'] / f['state_bytes']:.2f}",
    "trace + compile s": lambda f: f"{f['compile_s']:.2f}",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES), help=f"of {', '.join(CASES)}")
    parser.add_argument("--model", choices=("mlp", "cnn"), default="mlp")
    parser.add_argument("--hidden", type=int, nargs="*", action="append", help="again for each network")
    parser.add_argument("--batch-size", type=int, nargs="*", default=[256])
    parser.add_argument("--no-skip", action="store_true")
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--call", choices=get_args(Call), default="keep", help="see `compare`")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"cases: expected some of {', '.join(CASES)}, given {', '.join(sorted(unknown))}")
    print(f"| case | hidden | batch | {' | '.join(COLUMNS)} |")
    print("|---" * (len(COLUMNS) + 3) + "|")
    for case, hidden, batch_size in itertools.product(
        options.cases, options.hidden or [None], options.batch_size
    ):
        network = Classifier(
            model=options.model,
            hidden=None if hidden is None else tuple(hidden),
            batch_size=batch_size,
            skip=not options.no_skip,
        )
        figures = compare(CASES[case], *case_of(task(network=network)), options.repeats, options.call)
        cells = " | ".join(column(figures) for column in COLUMNS.values())
        print(f"| {case} | {hidden or 'default'} | {batch_size} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
