"""Steps compiled for TPU pods, as Markdown tables: `python -m benchmarks.pods [table ...]`.

Needs no TPU, but libtpu (extra `aot`) and minutes for each row.
"""

import argparse
from dataclasses import dataclass
from typing import Any

from pjax_prim.sharding.topology import analyse

from pjax_prim.cli.aot import make_parts
from pjax_prim.tasks.classification import Classifier
from pjax_prim.tasks.digits import task
from pjax_prim.training import Method, TrainConfig


@dataclass(frozen=True)
class Case:
    """A row: a network's solver on a topology; `batch` is for each part of the data axis if `per_data`."""

    topology: str
    mesh: str
    solver: str
    hidden: tuple[int, ...]
    batch: int
    per_data: bool = False


WIDE = (22528,) * 3  # 1.02 billion parameters
DEEP = (4096,) * 14

TABLES: dict[str, list[Case]] = {
    "fit": [
        Case("v5e:16x16", "data=16,model=16", "ap", WIDE, 4096),
        Case("v5e:16x16", "data=16,model=16", "dr", DEEP, 1024),
    ],
    "weak": [
        Case(topology, "data=-1", "ap", (4096, 4096), 16384, per_data=True)
        for topology in ("v5e:2x2", "v5e:4x4", "v5e:8x8", "v5e:16x16")
    ],
    "strong": [
        Case("v5p:2x2x4", "data=4,model=4", "ap", (16384, 16384), 65536),
        Case("v5p:4x4x4", "data=16,model=4", "ap", (16384, 16384), 65536),
        Case("v5p:8x8x8", "data=128,model=4", "ap", (16384, 16384), 65536),
        Case("v5p:8x8x8", "data=32,model=16", "ap", (16384, 16384), 65536),
    ],
}

HEADINGS = (
    "solver", "hidden", "batch", "topology", "mesh", "peak GiB", "arithmetic ms", "memory ms",
    "interconnect ms", "step ms", "efficiency",
)  # fmt: skip


def row(case: Case) -> dict[str, Any]:
    made = task(Classifier(hidden=case.hidden, batch_size=case.batch))
    per_data = case.batch if case.per_data else None
    config = TrainConfig(method=Method(solver=case.solver), mesh=case.mesh)
    parts = make_parts(made, config, case.topology, "float32", per_data)
    assert parts.placing.plan is not None
    return analyse(case.topology, parts.placing.plan).to_json()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", default=list(TABLES), help=f"of {', '.join(TABLES)}")
    tables = parser.parse_args().tables
    if unknown := set(tables) - set(TABLES):
        parser.error(f"tables: expected some of {', '.join(TABLES)}, given {', '.join(sorted(unknown))}")
    for name in tables:
        print(f"\n{name}\n\n| {' | '.join(HEADINGS)} |\n{'|---' * len(HEADINGS)}|")
        first: float | None = None
        for case in TABLES[name]:
            found = row(case)
            step = found["predicted_step_s"]
            # Chip-seconds for the same work (weak: for work that grows with the chips).
            cost = None if step is None else step * (1 if case.per_data else found["chips"])
            first = cost if first is None else first
            terms = [found[f"{x}_s"] for x in ("arithmetic", "memory", "interconnect", "predicted_step")]
            cells = [
                case.solver, str(list(case.hidden)), str(case.batch), case.topology, found["mesh"],
                f"{found['peak_bytes_per_chip'] / 2**30:.2f}",
                *("-" if x is None else f"{1e3 * x:.3f}" for x in terms),
                "-" if cost is None or first is None else f"{first / cost:.1%}",
            ]  # fmt: skip
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
