"""Steps compiled for TPU pods, as Markdown tables: `python -m benchmarks.pods [table ...]`.

Needs no TPU, but libtpu (extra `aot`) and minutes for each row.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from pjax_prim.sharding.topology import analyse

from pjax_prim.cli.aot import compile_steps, make_parts
from pjax_prim.tasks.classification import Classifier
from pjax_prim.tasks.digits import task
from pjax_prim.training import Method, Task, TrainConfig
from pjax_prim.training.parts import Parts

from .decoder import task as decoder_task


@dataclass(frozen=True)
class Case:
    """A row: a task's training step, or the solver's step inside, on a topology.

    - `sizes`: in words; `batch`: examples, for each part of a batch if `per_part`.
    """

    topology: str
    mesh: str
    method: Method
    sizes: str
    batch: int
    make: Callable[[], Task]
    per_part: bool = False

    def parts(self) -> Parts:
        config = TrainConfig(method=self.method, mesh=self.mesh)
        return make_parts(
            self.make(), config, self.topology, "float32", self.batch if self.per_part else None
        )


def mlp(
    topology: str, mesh: str, solver: str, hidden: tuple[int, ...], batch: int, per_part: bool = False
) -> Case:
    """Projections on a multilayer perceptron."""
    method = Method(solver=solver)  # type: ignore[arg-type]
    made = partial(task, Classifier(hidden=hidden, batch_size=batch))
    return Case(topology, mesh, method, str([*hidden]), batch, made, per_part)


def decoder(topology: str, mesh: str, solver: str, batch: int, per_part: bool = False, **sizes: Any) -> Case:
    """A direction of a decoder, handed to Adam; computed in bfloat16."""
    method = Method(solver=solver, compute_dtype="bfloat16")  # type: ignore[arg-type]
    made = partial(decoder_task, batch_size=batch, **sizes)
    text = ", ".join(f"{name} {size}" for name, size in sizes.items()) or "8 billion"
    return Case(topology, mesh, method, text, batch, made, per_part)


WIDE = (22528,) * 3  # 1.02 billion parameters
DEEP = (4096,) * 14

TABLES: dict[str, list[Case]] = {
    "fit": [
        mlp("v5e:16x16", "data=16,model=16", "ap", WIDE, 4096),
        mlp("v5e:16x16", "data=16,model=16", "dr", DEEP, 1024),
    ],
    "fsdp": [
        mlp("v5e:16x16", "data=16,model=16", "ap", WIDE, 4096),
        mlp("v5e:16x16", "fsdp=16,model=16", "ap", WIDE, 4096),
        mlp("v5e:16x16", "fsdp=8,model=32", "ap", WIDE, 4096),
    ],
    "weak": [
        mlp(topology, "data=-1", "ap", (4096, 4096), 16384, per_part=True)
        for topology in ("v5e:2x2", "v5e:4x4", "v5e:8x8", "v5e:16x16")
    ],
    "strong": [
        mlp("v5p:2x2x4", "data=4,model=4", "ap", (16384, 16384), 65536),
        mlp("v5p:4x4x4", "data=16,model=4", "ap", (16384, 16384), 65536),
        mlp("v5p:8x8x8", "data=128,model=4", "ap", (16384, 16384), 65536),
        mlp("v5p:8x8x8", "data=32,model=16", "ap", (16384, 16384), 65536),
    ],
    "decoder": [
        decoder(topology, "fsdp=-1", solver, batch)
        for topology, batch in (("v5p:8x8x8", 1024), ("v5e:16x16", 256))
        for solver in ("displacement", "gradient")
    ],
    "decoder-weak": [
        decoder(topology, "fsdp=-1", "displacement", 2, per_part=True)
        for topology in ("v5p:2x2x4", "v5p:4x4x4", "v5p:8x8x8")
    ],
}

HEADINGS = (
    "solver", "sizes", "batch", "topology", "mesh", "peak GiB", "arithmetic ms", "memory ms",
    "interconnect ms", "step ms", "efficiency",
)  # fmt: skip


def row(case: Case) -> dict[str, Any]:
    parts = case.parts()
    if parts.placing.plan is not None:
        return analyse(case.topology, parts.placing.plan).to_json()
    return compile_steps(case.topology, parts)[1]


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
            cost = None if step is None else step * (1 if case.per_part else found["chips"])
            first = cost if first is None else first
            terms = [found[f"{x}_s"] for x in ("arithmetic", "memory", "interconnect", "predicted_step")]
            cells = [
                case.method.solver, case.sizes, str(case.batch), case.topology, found["mesh"],
                f"{found['peak_bytes_per_chip'] / 2**30:.2f}",
                *("-" if x is None else f"{1e3 * x:.3f}" for x in terms),
                "-" if cost is None or first is None else f"{first / cost:.1%}",
            ]  # fmt: skip
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
