"""Compile a sharded solver step for TPU pods ahead of time: memory, communication, predicted time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import tyro
from rich.table import Table

from .. import sharding
from ..errors import ArgumentError
from ..feasibility import is_trained
from ..sharding.topology import Analysis, analyse, analyse_step, topology_devices
from ..training import Method, Task, TrainConfig
from ..training.parts import Parts
from ..training.placing import Packed
from .options import Output, choose_task, parse

LARGEST = 5
"""How many arrays are named where a step does not fit."""

Repeated = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True)
class Chips:
    """What is compiled for what.

    Attributes:
        topology: such as v5e:16x16, v5p:8x8x8, v6e:16x16; again for each row of a table.
        mesh: how the chips are divided, such as data=16,model=16; -1 is inferred; once, or once for each
        topology.
        batch_per_data: examples for each part of the mesh's data axis, in place of the task's batch.
        dtype: of parameters and data.
        show_plan: print how every array is divided.
    """

    topology: Repeated
    mesh: Repeated
    batch_per_data: int | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    show_plan: bool = False


def run(arguments: Sequence[str]) -> dict[str, Any]:
    """Prints a table with a row for each topology; returns the figures."""
    file, start, rest = choose_task(arguments)
    parts = {"task": (file.options, start), "method": (Method, Method(solver="ap")),
             "chips": (Chips, Chips((), ())), "output": (Output, Output())}  # fmt: skip
    options = parse("aot", rest, parts, __doc__ or "")
    chips, method = options.chips, options.method
    for name in ("topology", "mesh"):
        if not getattr(chips, name):
            raise ArgumentError(f"--{name}: expected at least one, given none")
    several = len(chips.topology)
    meshes = chips.mesh * several if len(chips.mesh) == 1 else chips.mesh
    if len(meshes) != several:
        raise ArgumentError(
            f"mesh: expected one, or one for each of {several} topologies, given {len(meshes)}"
        )
    task = file.make(options.task)
    out = options.output.console()
    results, problems = [], []
    for topology, mesh in zip(chips.topology, meshes, strict=True):
        parts_of = make_parts(task, method, topology, mesh, chips.dtype, chips.batch_per_data)
        plan = parts_of.placing.plan
        if plan is None:
            analysis = analyse_step(topology, *lower_step(parts_of))
        else:
            if chips.show_plan:
                out.print(str(plan), markup=False, soft_wrap=True)
            analysis = analyse(topology, plan)
        results.append(analysis.to_json())
        if not analysis.fits:
            problems.append(_does_not_fit(analysis, plan))
    out.print(_table(f"{method.solver}, {task.name}", results))
    for row in results:
        if row["fits"]:
            out.print(_exchanged(row), markup=False, soft_wrap=True)
    for problem in problems:
        out.print(problem, markup=False, soft_wrap=True)
    return results[0] if len(results) == 1 else {"topologies": results}


def make_parts(
    task: Task, method: Method, topology: str, mesh: str, dtype: str, batch_per_data: int | None
) -> Parts:
    """A run of the task on the chips of a topology, as shapes with their shardings."""
    devices = topology_devices(topology)
    parts = sharding.make_mesh(mesh, devices).shape["data"]

    def convert(tree: Any) -> Any:
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype)) if is_trained(x) else x, tree
        )

    def with_rows(x: Any) -> Any:
        if batch_per_data is None or not x.shape:
            return x
        return jax.ShapeDtypeStruct((batch_per_data * parts, *x.shape[1:]), x.dtype)

    config = TrainConfig(method=method, mesh=mesh)
    return Parts.make(task, config, devices, lambda x: jax.tree.map(with_rows, convert(x)), convert)


def lower_step(parts: Parts) -> tuple[Any, Any]:
    """The mesh, and the step lowered for it."""
    packed = Packed.of(parts.placing.abstract(parts.shapes), lambda x: isinstance(x, jax.ShapeDtypeStruct))
    placing = parts.placing
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placing.rows(x)), parts.batch
    )
    jitted, _ = placing.jit(parts.make_step(), packed, batch)
    return placing.mesh, jitted.lower(packed.leaves, batch)


def _table(title: str, results: list[dict[str, Any]]) -> Table:
    table = Table(title=f"{title}: one step, per chip")
    table.add_column("topology", no_wrap=True)
    table.add_column("mesh")
    numbers = ("chips", "peak GiB", "arith. ms", "memory ms", "links ms", "step ms")
    for heading in numbers:
        table.add_column(heading, justify="right")
    for row in results:
        terms = (row[f"{name}_s"] for name in ("arithmetic", "memory", "interconnect", "predicted_step"))
        table.add_row(
            row["topology"],
            row["mesh"],
            str(row["chips"]),
            f"{row['peak_bytes_per_chip'] / 2**30:.2f}" + ("" if row["fits"] else " (too much)"),
            *("-" if x is None else f"{1e3 * x:.3f}" for x in terms),
        )
    return table


def _exchanged(row: dict[str, Any]) -> str:
    kinds = (row["collectives"] or {}).items()
    text = ", ".join(f"{x['count']} {kind} of {x['bytes'] / 1e6:.1f} MB" for kind, x in kinds)
    return f"{row['topology']}: {text or 'nothing'} between chips"


def _does_not_fit(analysis: Analysis, plan: sharding.Plan | None) -> str:
    held = [] if plan is None else plan.rows()
    rows = sorted(held, key=lambda row: -row.bytes_per_device)[:LARGEST]
    arrays = ", ".join(
        f"{row.name} {row.dtype}{list(row.shape)} ({row.bytes_per_device / 2**30:.2f})" for row in rows
    )
    text = (
        f"{analysis.topology}: does not fit: {analysis.peak_bytes / 2**30:.2f} GiB per chip, which has "
        f"{analysis.capacity / 2**30:.0f}."
    )
    return f"{text} The largest arrays, in GiB per chip: {arrays}" if arrays else text
