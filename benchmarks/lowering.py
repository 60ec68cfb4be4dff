"""Every primitive beside its floor, on the platforms at hand: `python -m benchmarks.lowering`.

Of each primitive and platform one row:

- MB: its operands read once and its results written once.
- floor: on a device that is there, a copy that moves as many bytes, and the matrix products or convolutions
  alone where there are some; both are timed in turns with the primitive, and medians are shown. On a TPU that
  is only described (libtpu is needed), these bytes at the published bandwidth, or the compiler's count of
  operations at the published rate where that takes longer.
- time: measured; or the bytes that the compiled program moves, at the same rates: what its operations read
  from and write to main memory by the program's text; where it has loops or branches, the compiler's account,
  which takes every branch and leaves out kernels.
- ratio: time to floor.
"""

import argparse
import math
import re
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from pjax_prim.lowering import use
from pjax_prim.lowering.registry import CHOICES
from pjax_prim.sharding.roofline import CHIPS
from pjax_prim.sharding.topology import topology_devices

from pjax_prim.errors import ArgumentError
from pjax_prim.primitives import DEFINITIONS
from pjax_prim.primitives._window import Window

LABELS, STEPS = "labels", "steps"


@dataclass(frozen=True)
class Row:
    """What a primitive is timed on.

    - `shapes`: of its operands; (`LABELS`, *shape) is one-hot along the last axis, (`STEPS`, *shape) is 1.
    - `static`: its parameters.
    - `products`: of the operands, the products or convolutions that it cannot do without.
    - `in_place`: the operands that its results may overwrite.
    """

    shapes: Sequence[tuple[Any, ...]]
    static: dict[str, Any] = field(default_factory=dict)
    products: Callable[..., Any] | None = None
    in_place: tuple[int, ...] = ()

    def abstract(self, sharding: Any = None) -> list[jax.ShapeDtypeStruct]:
        return [jax.ShapeDtypeStruct(_size(s), jnp.float32, sharding=sharding) for s in self.shapes]

    def operands(self) -> list[jax.Array]:
        keys = jax.random.split(jax.random.key(0), len(self.shapes))
        return [
            jax.nn.one_hot(jax.random.randint(key, shape[1:-1], 0, shape[-1]), shape[-1])
            if shape[0] == LABELS
            else jnp.ones(_size(shape))
            if shape[0] == STEPS
            else jax.random.normal(key, shape)
            for key, shape in zip(keys, self.shapes, strict=True)
        ]


def _size(shape: tuple[Any, ...]) -> tuple[int, ...]:
    return shape[1:] if shape[0] in (LABELS, STEPS) else shape


def rows(n: int) -> dict[str, Row]:
    """The rows by primitive; the largest operand has about `n` numbers."""
    one, many, few = (n,), (n // 64, 64), (n // 64,)
    logits, labels = (n // 16, 16), (LABELS, n // 16, 16)
    steps = (STEPS, n // 16)
    side = 128 * max(1, math.isqrt(n) // 128)
    p, q, k = max(1, n // (128 * 512)), 128, 512
    copies, mean_a, mean_b, single = (p, q, k), (p, 1, k), (1, q, k), (p, q)
    images, filters = (max(1, n // 2**14), 16, 32, 32), (16, 16, 3, 3)  # the results are as the images
    window = Window((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1))
    wanted = {"wanted": (True, True), "precision": None, "operand_dtype": jnp.float32}

    def matmuls(a: jax.Array, b: jax.Array, z: jax.Array) -> Any:
        return a @ b.T, z @ b, z.T @ a

    def convolutions(x: jax.Array, w: jax.Array, z: jax.Array) -> Any:
        value, back = jax.vjp(lambda x, w: window.convolve(x, w, None), x, w)
        return value, back(z)

    curve = {"function": "tanh", "parameters": ()}
    half, norm = (1, 1), {"eps": 1e-5, "center": True}
    found = {
        "absolute_error": Row((one, one, (STEPS, *one))),
        "at_most": Row((one, one, (STEPS, *one))),
        "binary_cross_entropy": Row((logits, labels, (STEPS, *logits))),
        "huber": Row((one, one, (STEPS, *one), (STEPS, *one))),
        "kl_divergence": Row((logits, labels, steps)),
        "one_hot_argmax": Row((logits,)),
        "project_at_most": Row((one, one)),
        "project_one_hot_argmax": Row((logits, labels)),
        "project_top_k_mask": Row((logits, labels), {"k": 2}),
        "prox_absolute_error": Row((one, one, (STEPS, *one)), in_place=(0,)),
        "prox_binary_cross_entropy": Row((logits, labels, (STEPS, *logits)), in_place=(0,)),
        "prox_huber": Row((one, one, (STEPS, *one), (STEPS, *one)), in_place=(0,)),
        "top_k_mask": Row((logits,), {"k": 2}),
        "convolve": Row(
            (images, filters),
            {"window": window, "precision": None, "output_dtype": None},
            lambda x, w: window.convolve(x, w, None),
        ),
        "correlate": Row(
            (images, images),
            {"window": window, "precision": None, "dtype": None},
            lambda x, y: window.correlate(x, y, None),
        ),
        "spread": Row(
            (images, filters),
            {"window": window, "precision": None, "dtype": jnp.dtype("float32"), "shape": images},
            lambda y, w: window.convolve(y, w, None),  # as many products
        ),
        "cross_entropy": Row((logits, labels, steps)),
        "displace_cross_entropy": Row((logits, labels, steps)),
        "displace_cumsum": Row((many,)),
        "displace_dot": Row((copies, copies, single)),
        "displace_max": Row((many, few)),
        "displace_scalar": Row((one, one), curve),
        "displace_sum": Row((one, one), {"inputs": 4}),
        "displace_sum_relu": Row((one, one), {"inputs": 2}),
        "equality": Row((logits, labels, steps)),
        "leave_dot": Row((copies, copies, mean_a, mean_b, *[single] * 5, half), in_place=(0, 1)),
        "margin_loss": Row((logits, labels, steps)),
        "mean_rows": Row((copies,)),
        "minimise": Row((one, (STEPS, *one))),
        "normalize": Row((many,), {**norm, "axes": (-1,)}, in_place=(0,)),
        "project_affine": Row((many, many, few, few), in_place=(0,)),
        "project_combination": Row((one, one, one), {"coefficients": (1.0, -1.0)}, in_place=(0, 1)),
        "project_convolution": Row((images, filters, images), {**wanted, "window": window}, convolutions),
        "project_cumsum": Row((many, many), in_place=(0,)),
        "project_dot": Row((many, many, few), in_place=(0, 1)),
        "project_equality": Row((one, one)),
        "project_identity": Row((one, one), in_place=(0,)),
        "project_linear": Row(((side, side // 2), (side, side // 2), (side, side)), wanted, matmuls),
        "project_margin": Row((logits, labels), in_place=(0,)),
        "project_max": Row((many, few), in_place=(0,)),
        "project_mean": Row((many, few), in_place=(0,)),
        "project_normalize": Row((many, many), norm, in_place=(0,)),
        "project_logsumexp": Row((many, few), in_place=(0,)),
        "logsumexp": Row((many,), {"axes": (-1,)}),
        "project_softmax": Row((logits, labels), in_place=(0,)),
        "softmax": Row((logits,), {"axes": (-1,)}, in_place=(0,)),
        "project_product": Row((one, one, one), in_place=(0, 1)),
        "project_quantize": Row((one, one), {"levels": 4, "scale": 1.0}, in_place=(0,)),
        "project_round": Row((one, one), {"function": "round"}, in_place=(0,)),
        "project_scalar": Row((one, one), curve, in_place=(0,)),
        "project_scale": Row((one, one, one, one), in_place=(0,)),
        "project_select": Row(
            [one] * 5, {"compare": "gt", "moves": (True,) * 4, "output": False}, in_place=(0, 1, 2, 3)
        ),
        "project_sign": Row((one, one), in_place=(0,)),
        "project_sum": Row((many, few), in_place=(0,)),
        "project_sum_relu": Row((one, one, one), in_place=(0, 1)),
        "project_threshold_dot": Row((many, many, few), {"margin": 1.0}, in_place=(0, 1, 2)),
        "prox_cross_entropy": Row((logits, labels, steps), in_place=(0,)),
        "prox_minimise": Row((one, (STEPS, *one)), in_place=(0,)),
        "prox_squared_error": Row((logits, labels, (STEPS, *logits)), in_place=(0,)),
        "quantize": Row((one,), {"levels": 4, "scale": 1.0}, in_place=(0,)),
        "reflect_dot": Row((copies, copies, mean_a, mean_b, single, half), in_place=(0, 1)),
        "scalar": Row((one,), curve, in_place=(0,)),
        "select": Row([one] * 4, {"compare": "gt"}, in_place=(0,)),
        "squared_error": Row((logits, labels, steps)),
        "squared_norm": Row((one,), {"rank": 1, "count": 1}),
        "sum_relu": Row((one, one), in_place=(0,)),
        "threshold_dot": Row(((n // 512, 8, 64), (n // 512, 64)), {"sigma": 3.0}),
    }
    return {f"pjax_{name}": row for name, row in found.items()}


def bytes_moved(name: str, row: Row) -> int:
    """Its operands read once, its results written once."""
    results = jax.eval_shape(bound(name, row), *row.abstract())
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in (*row.abstract(), *results))


def bound(name: str, row: Row) -> Callable[..., Any]:
    return lambda *arrays: DEFINITIONS[name].bind(*arrays, **row.static)


def measured(name: str, row: Row, repeats: int) -> tuple[float, float]:
    """Seconds of the primitive and of its floor, medians of runs that take turns."""
    operands = row.operands()
    numbers = max(1, bytes_moved(name, row) // 8)
    copied = jnp.ones((numbers // 128 + 1, 128))
    timed = {"time": (jax.jit(bound(name, row)), operands), "copy": (jax.jit(jnp.copy), [copied])}
    if row.products:
        timed["products"] = jax.jit(row.products), operands
    # Accelerators run calls one after another without waiting for the host.
    calls = 1 if jax.default_backend() == "cpu" else 10
    seconds: dict[str, list[float]] = {key: [] for key in timed}
    for turn in range(repeats + 2):
        for key, (function, arguments) in timed.items():
            started = time.perf_counter()
            for _ in range(calls):
                result = function(*arguments)
            jax.block_until_ready(result)
            if turn >= 2:
                seconds[key].append((time.perf_counter() - started) / calls)
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    return medians["time"], medians["copy"] + medians.get("products", 0)


def predicted(name: str, row: Row, topology: str) -> tuple[float, float, float]:
    """Seconds of the compiled primitive and of its floor on one chip, and the bytes that it moves."""
    compiled = compile_for(name, row, topology)
    chip = CHIPS[topology.split(":")[0]]
    costs = compiled.cost_analysis()
    traffic = memory_traffic(compiled.as_text())
    moved = float(costs["bytes accessed"] if traffic is None else traffic)
    arithmetic = float(costs.get("flops", 0)) / chip.flops
    floor = max(arithmetic, bytes_moved(name, row) / chip.bandwidth)
    return max(arithmetic, moved / chip.bandwidth), floor, moved


def compile_for(name: str, row: Row, topology: str) -> Any:
    """The primitive compiled for one chip of a topology; what it may overwrite is given to it."""
    sharding = SingleDeviceSharding(topology_devices(topology)[0])
    jitted = jax.jit(bound(name, row), donate_argnums=row.in_place)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Some donated buffers were not usable")
        return jitted.lower(*row.abstract(sharding)).compile()


def kernels(text: str) -> list[str]:
    """The lines of a compiled program's text that are kernels."""
    return [line for line in text.splitlines() if 'custom_call_target="tpu_custom_call"' in line]


def kernel_bytes(line: str) -> int:
    """Bytes of a kernel's operands and results: each is moved at least once."""
    results = line.split(" = ", 1)[1].split(" custom-call(")[0]
    operands = line.split("operand_layout_constraints={", 1)[1].split("}}", 1)[0]
    return sum(_bytes(*shape) for shape in _SHAPE.findall(results) + _SHAPE.findall(operands))


def memory_traffic(text: str) -> int | None:
    """Bytes that a compiled program reads from and writes to the chip's main memory.

    What its operations read and write but for arrays in memory space 1, on the chip itself. None for programs
    with loops or branches.
    """
    entry = text[text.index("\nENTRY ") :]
    if re.search(r" (while|conditional)\(", entry):
        return None
    held: dict[str, int] = {}
    total = 0
    for line in entry.splitlines():
        found = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)", line)
        if found is None:
            continue
        name, kind, operation, rest = found.groups()
        arrays = [0 if on_chip else _bytes(*shape) for *shape, on_chip in _PLACED.findall(kind)]
        held[name] = sum(arrays)
        if operation in _IDLE or operation.endswith("-done"):
            continue
        if operation == "slice-start":  # (whole, slice, ...): reads the slice only
            _, part, *_ = (_bytes(*shape) for *shape, _ in _PLACED.findall(kind))
            total += part + arrays[1]
            continue
        written = arrays[0] if operation == "copy-start" else sum(arrays)
        operands = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
        total += written + sum(held[x] for x in operands)
    return total


_SHAPE = re.compile(r"([a-z]+\d+)\[([\d,]*)\]")
_IDLE = ("parameter", "constant", "bitcast", "tuple", "get-tuple-element")
_PLACED = re.compile(r"([a-z]+\d+)\[([\d,]*)\](?:\{[^{}]*?(S\(1\))?\})?")


def _bytes(dtype: str, shape: str) -> int:
    bits = int(re.sub(r"\D", "", dtype))
    return math.prod(int(x) for x in shape.split(",") if x) * bits // 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("primitives", nargs="*", help="all if none; with or without pjax_")
    parser.add_argument("--mib", type=int, default=64, help="of the largest operand (default %(default)s)")
    parser.add_argument(
        "--topology", action="append", default=[], help="such as v5e:2x2, again for each; none is measured"
    )
    parser.add_argument("--lowering", choices=CHOICES, default="auto")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    table = rows(options.mib * 2**18)
    chosen = ["pjax_" + x.removeprefix("pjax_") for x in options.primitives] or list(table)
    if unknown := set(chosen) - set(table):
        parser.error(f"primitives: expected some of {', '.join(table)}, given {', '.join(sorted(unknown))}")
    if options.mib < 1 or options.repeats < 1:
        parser.error(f"mib, repeats: expected at least 1, given {options.mib}, {options.repeats}")
    try:
        for topology in options.topology:
            topology_devices(topology)
    except ArgumentError as error:
        parser.error(str(error))
    print("| primitive | platform | MB | moved MB | floor ms | time ms | ratio |\n" + "|---" * 7 + "|")
    for name in chosen:
        least = bytes_moved(name, table[name])
        for platform in options.topology or [jax.default_backend()]:
            with use(options.lowering):
                if platform in options.topology:
                    seconds, floor, moved = predicted(name, table[name], platform)
                else:
                    seconds, floor = measured(name, table[name], options.repeats)
                    moved = math.nan
            account = "" if math.isnan(moved) else f"{moved / 1e6:.1f}"
            print(
                f"| `{name}` | {platform} | {least / 1e6:.1f} | {account} | {1e3 * floor:.3f} |"
                f" {1e3 * seconds:.3f} | {seconds / floor:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
