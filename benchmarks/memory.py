"""Memory of solver steps by the compiler's account, without running them: `python -m benchmarks.memory`."""

import argparse

from pjax_prim.models import NETWORKS
from pjax_prim.tasks.classification import Classifier
from pjax_prim.tasks.random import task
from pjax_prim.training.benchmark import CASES, step_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    names = ", ".join(name for name, solver in CASES.items() if solver is not None)
    parser.add_argument("cases", nargs="*", default=["ap"], help=f"of {names} (default: ap)")
    parser.add_argument("--model", choices=tuple(NETWORKS), default="cnn")
    parser.add_argument("--hidden", type=int, nargs="*", default=[32, 32, 32])
    parser.add_argument("--batch-size", type=int, default=256)
    options = parser.parse_args()
    for case in options.cases:
        if CASES.get(case) is None:
            parser.error(f"cases: expected some of {names}, given {case!r}")
    print("| case | state MB | peak MB |\n|---|---|---|")
    for case in options.cases:
        network = Classifier(
            model=options.model, hidden=tuple(options.hidden), batch_size=options.batch_size, skip=True
        )
        state, peak = step_bytes(case, task(network=network))
        print(f"| {case} | {state / 1e6:.1f} | {peak / 1e6:.1f} |", flush=True)


if __name__ == "__main__":
    main()
