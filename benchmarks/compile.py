"""What a solve costs before its first step: `python -m benchmarks.compile [case ...]`.

For each network, in a fresh process each, the CPU seconds of tracing, lowering and compiling
`pjp.solve` with alternating projections and an Adam step by the gradient, and the time of a step of each
(median of 7). `--steps 0` leaves the steps out; `--scopes` counts the instructions of the compiled program by
scope.
"""

import argparse
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax

import pjax_prim as pjp

from .networks import cases, cpu_seconds, loss

REPEATS = 7


def solve(static: Any, steps: int) -> Callable[..., Any]:
    """Some steps of alternating projections, as `pjp.solve` compiles them."""

    def run(parameters: Any, x: Any, labels: Any) -> Any:
        model = eqx.combine(parameters, static)
        found = pjp.solve(loss, model, x, labels, solver=pjp.AlternatingProjections(), max_steps=steps)
        return eqx.filter(found.params, eqx.is_array), found.stats

    return run


def adam(static: Any) -> Callable[..., Any]:
    """A step of Adam."""
    optimiser = optax.adam(1e-3)

    def run(parameters: Any, state: Any, x: Any, labels: Any) -> Any:
        def of(parameters: Any) -> Any:
            return loss(eqx.combine(parameters, static), x, labels)

        value, gradient = jax.value_and_grad(of)(parameters)
        updates, state = optimiser.update(gradient, state, parameters)
        return optax.apply_updates(parameters, updates), state, value

    return run


def measure(which: str, name: str, steps: int, scopes: bool) -> None:
    """Prints the CPU seconds of trace, lower and compile, and the milliseconds of a step."""
    model, x, labels = cases()[name]
    parameters, static = eqx.partition(model, eqx.is_array)
    operands: tuple[Any, ...] = (parameters, x, labels)
    if which == "adam":
        operands = parameters, optax.adam(1e-3).init(parameters), x, labels
    # What every program shares is no part of this one.
    jax.jit(lambda x: x + 1).lower(x).compile()
    jitted = jax.jit(adam(static) if which == "adam" else solve(static, max(steps, 1)))
    times = [cpu_seconds()]
    traced = jitted.trace(*operands)
    times.append(cpu_seconds())
    lowered = traced.lower()
    times.append(cpu_seconds())
    compiled = lowered.compile()
    times.append(cpu_seconds())
    seconds = np.diff(times)
    if scopes:
        print_scopes(compiled.as_text())
    print(*(f"{x:.3f}" for x in seconds), end=" ")
    found = []
    for _ in range(REPEATS if steps else 0):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*operands))
        found.append(time.perf_counter() - start)
    count = 1 if which == "adam" else max(steps, 1)
    print(f"{1000 * float(np.median(found)) / count if found else 0:.3f}")


def print_scopes(text: str) -> None:
    """Counts the instructions of a compiled program by node, with the primitive they belong to."""
    counts: Counter[str] = Counter()
    for line in text.splitlines():
        if " = " not in line:
            continue
        name = re.search(r'op_name="([^"]*)"', line)
        parts = [] if name is None else name[1].split("/")
        kept = [x for x in parts if re.search(r"_\d+$|^pjax|^while$|^body$|^cond$|^branch", x)]
        counts["/".join(kept)] += 1
    for scope, count in counts.most_common(60):
        print(f"{count:6d} {scope}")
    print(f"{sum(counts.values()):6d} instructions")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help="words that a case's name contains (default: all)")
    parser.add_argument("--steps", type=int, default=20, help="of a timed solve")
    parser.add_argument("--scopes", action="store_true", help="count instructions")
    parser.add_argument("--only", choices=("solve", "adam"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in cases():
        if options.cases and not any(word in name for word in options.cases):
            continue
        if options.only:
            measure(options.only, name, options.steps, options.scopes)
            continue
        totals, rows = {}, {}
        for which in ("solve", "adam"):
            command = [sys.executable, "-m", "benchmarks.compile", name, "--only", which]
            command += ["--steps", str(options.steps)] + ["--scopes"] * options.scopes
            *head, last = subprocess.check_output(command, text=True).splitlines()
            print(*head, sep="\n", end="\n" if head else "")
            *seconds, step = map(float, last.split())
            totals[which] = seconds[0] + seconds[1] + seconds[2]
            rows[which] = (
                f"{which}: trace {seconds[0]:.2f} lower {seconds[1]:.2f} compile {seconds[2]:.2f} s, "
            )
            rows[which] += f"step {step:.2f} ms"
        print(
            name,
            rows["solve"],
            rows["adam"],
            f"ratio {totals['solve'] / totals['adam']:.2f}",
            sep="  ",
            flush=True,
        )


if __name__ == "__main__":
    main()
