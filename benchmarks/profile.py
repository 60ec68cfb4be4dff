"""Where a solver step spends its time, node after node: `python -m benchmarks.profile --out X.png`.

A trace by `jax.profiler`, as xprof shows it, summed over the names that operations carry: the node of the
constraint graph and in it the primitive. What XLA fuses across nodes counts for the node of the fusion's last
operation.
"""

import argparse
import gzip
import json
import re
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
from matplotlib.figure import Figure

import pjax_prim as pjp
from pjax_prim.models import NETWORKS
from pjax_prim.tasks.classification import Classifier
from pjax_prim.tasks.random import task
from pjax_prim.training.benchmark import CASES, case_of

STEPS = 100


def profile(solver: pjp.AbstractSolver, *case: Any) -> dict[str, dict[str, float]]:
    """Milliseconds of a step by node and primitive, of `case` as `case_of` gives it."""
    loss, network, batch = case

    given, static = eqx.partition((network, *batch), eqx.is_array)

    @jax.jit
    def run(given: Any) -> Any:
        solution = pjp.solve(loss, *eqx.combine(given, static), solver=solver, max_steps=STEPS)
        return eqx.filter(solution.params, eqx.is_array)

    compiled = run.lower(given).compile()
    jax.block_until_ready(compiled(given))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(compiled(given))
        (trace,) = Path(folder).rglob("*.trace.json.gz")
        events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    names = operation_names(compiled.as_text())
    nodes = [n.name for n in pjp.constraint_graph(loss)(network, *batch).nodes if n.constraint is not None]
    spent: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for event in events:
        operation = event.get("args", {}).get("hlo_op")
        # Loops and branches last as long as what is in them, which counts itself.
        if operation is None or operation.startswith(("while", "cond", "conditional", "call")):
            continue
        scopes = names.get(operation, "").split("/")
        node = next((scope for scope in scopes if scope in nodes), "means, gaps")
        primitive = next(
            (scope for scope in scopes if scope.startswith("pjax_")), "products and means of the node"
        )
        spent[node][primitive] += event["dur"] / 1e3 / STEPS
    return {node: dict(spent[node]) for node in (*nodes, "means, gaps") if node in spent}


def operation_names(text: str) -> dict[str, str]:
    """The scopes of the operations of a compiled program.

    One that has lost its name, as products that were rewritten, has the name of an operation that reads it.
    """
    names: dict[str, str] = {}
    readers: dict[str, list[str]] = defaultdict(list)
    for line in text.splitlines():
        definition = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = (.*)", line)
        if definition is None:
            continue
        operation, rest = definition.groups()
        if scope := re.search(r'op_name="([^"]*)"', rest):
            names[operation] = scope[1]
        for operand in re.findall(r"%([\w.\-]+)", rest.split(", metadata=")[0]):
            readers[operand].append(operation)
    for _ in range(4):  # through bitcasts and copies that have lost theirs, too
        for operation in readers:
            if operation not in names:
                found = [names[x] for x in readers[operation] if x in names]
                names.update({operation: max(found, key=lambda x: "pjax_" in x)} if found else {})
    return names


def draw(spent: dict[str, dict[str, float]], title: str, path: Path) -> None:
    """One bar for each node, in the order of the graph, of a colour for each primitive."""
    figure = Figure(figsize=(8, 0.4 * len(spent) + 1.6), layout="constrained")
    axes = figure.subplots()
    primitives = sorted({primitive for of in spent.values() for primitive in of})
    left = dict.fromkeys(spent, 0.0)
    for primitive in primitives:
        widths = [of.get(primitive, 0.0) for of in spent.values()]
        axes.barh(list(spent), widths, left=list(left.values()), label=primitive)
        left = {node: before + width for (node, before), width in zip(left.items(), widths, strict=True)}
    axes.invert_yaxis()
    axes.set_xlabel("ms of a step, summed over threads")
    axes.set_title(title)
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    solvers = {name: solver for name, solver in CASES.items() if solver is not None}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=solvers, default="ap")
    parser.add_argument("--model", choices=tuple(NETWORKS), default="mlp")
    parser.add_argument("--hidden", type=int, nargs="*")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--out", type=Path, required=True, help="the picture, .png or .svg")
    options = parser.parse_args()
    hidden = None if options.hidden is None else tuple(options.hidden)
    network = Classifier(model=options.model, hidden=hidden, batch_size=options.batch_size, skip=True)
    spent = profile(solvers[options.case], *case_of(task(network=network)))
    for node, of in spent.items():
        print(f"{node:16} " + "  ".join(f"{primitive} {ms:.3f} ms" for primitive, ms in of.items()))
    title = f"{options.case}, {options.model}, batch {options.batch_size}, {jax.default_backend()}"
    draw(spent, title, options.out)


if __name__ == "__main__":
    main()
