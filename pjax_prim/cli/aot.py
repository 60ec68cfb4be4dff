"""Compile a training step for TPU pods ahead of time: memory, communication, predicted time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import tyro
from rich.table import Table

from .. import sharding
from ..arguments import is_trained
from ..errors import ArgumentError
from ..sharding.mesh import example_parts
from ..sharding.topology import HERE, Analysis, analyse, analyse_step, topology_devices
from ..training import Method, Task, TrainConfig
from ..training.compiled import save_steps
from ..training.parts import Parts
from .options import Output, choose_task, parse, print_table

LARGEST = 5
"""How many arrays are named where a step does not fit."""

Repeated = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True)
class Run(TrainConfig):
    """How the task is trained: as train takes it, on the mesh of each topology."""

    __doc__ = TrainConfig.__doc__
    mesh: tyro.conf.Suppress[str | None] = None


@dataclass(frozen=True)
class Chips:
    """What is compiled for what.

    Attributes:
        topology: such as v5e:16x16, v5p:8x8x8, v6e:16x16, or here, the devices that are there; again for
            each row of a table.
        mesh: how the chips are divided, such as data=16,model=16; -1 is inferred; once, or once for each
            topology.
        batch_per_data: examples for each part that a batch is divided into, in place of the task's batch.
        dtype: of parameters and data.
        show_plan: print how every array is divided.
        save: leave the compiled steps in this file, for train --compiled.
    """

    topology: Repeated
    mesh: Repeated
    batch_per_data: int | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    show_plan: bool = False
    save: Path | None = None


def run(arguments: Sequence[str]) -> dict[str, Any]:
    """Prints a table with a row for each topology; returns the figures."""
    file, start, rest = choose_task(arguments)
    kinds = {"task": (file.options, start), "run": (Run, Run(method=Method(solver="ap"))),
             "chips": (Chips, Chips((), ())), "output": (Output, Output())}  # fmt: skip
    options = parse("aot", rest, kinds, __doc__ or "")
    chips = options.chips
    pairs = _pairs(chips)
    task = file.make(options.task)
    out = options.output.console()
    results, problems = [], []
    for topology, mesh in pairs:
        config = TrainConfig.from_dict({**options.run.to_dict(), "mesh": mesh})
        parts = make_parts(task, config, topology, chips.dtype, chips.batch_per_data)
        plan = parts.placing.plan
        if chips.show_plan and plan is not None:
            out.print(str(plan), markup=False, soft_wrap=True)
        analysis, row = compile_steps(topology, parts, chips.save)
        results.append(row)
        if not row["fits"]:
            problems.append(_does_not_fit(analysis, plan))
    print_table(out, _table(f"{config.method.solver}, {task.name}", results))
    for row in results:
        out.print(_held(row), markup=False, soft_wrap=True)
        if row["fits"]:
            out.print(_exchanged(row), markup=False, soft_wrap=True)
    for problem in problems:
        out.print(problem, markup=False, soft_wrap=True)
    return results[0] if len(results) == 1 else {"topologies": results}


def _pairs(chips: Chips) -> list[tuple[str, str | None]]:
    """Each topology with its mesh; the devices that are there need none."""
    if not chips.topology:
        raise ArgumentError("--topology: expected at least one, given none")
    several = len(chips.topology)
    if not chips.mesh:
        if {*chips.topology} != {HERE}:
            raise ArgumentError("--mesh: expected at least one, given none")
        return [(topology, None) for topology in chips.topology]
    meshes = chips.mesh * several if len(chips.mesh) == 1 else chips.mesh
    if len(meshes) != several:
        raise ArgumentError(
            f"mesh: expected one, or one for each of {several} topologies, given {len(meshes)}"
        )
    if chips.save is not None and several > 1:
        raise ArgumentError(f"save: a file is for one topology, given {several}")
    return list(zip(chips.topology, meshes, strict=True))


def make_parts(
    task: Task, config: TrainConfig, topology: str, dtype: str, batch_per_data: int | None
) -> Parts:
    """A run of the task on the chips of a topology, as shapes with their shardings."""
    devices = topology_devices(topology)
    parts = 1 if config.mesh is None else example_parts(sharding.make_mesh(config.mesh, devices))

    def convert(tree: Any) -> Any:
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype)) if is_trained(x) else x, tree
        )

    def with_rows(x: Any) -> Any:
        if batch_per_data is None or not x.shape:
            return x
        return jax.ShapeDtypeStruct((batch_per_data * parts, *x.shape[1:]), x.dtype)

    return Parts.make(task, config, devices, lambda x: jax.tree.map(with_rows, convert(x)), convert)


def compile_steps(topology: str, parts: Parts, save: Path | None = None) -> tuple[Analysis, dict[str, Any]]:
    """Compiles the training step and, of projections on a mesh, the step of the solver inside.

    **Returns:** the analysis of the training step (of its first chunk, where a batch has several), or of the
    solver's step if that does not fit; and the figures. Memory is that of the training step, all else that of
    the solver's step where there is one.

    **Cost:** a compilation for each, a minute or more for networks of many different layers.
    """
    mesh = parts.placing.mesh
    plan = parts.placing.plan
    inside = None if plan is None else analyse(topology, plan)
    if inside is not None and not inside.fits:
        return inside, inside.to_json()
    steps, analyses = {}, []
    starts = parts.starts() if save is not None else dict([*parts.starts().items()][:1])
    for kind, start in starts.items():
        lowered, _ = parts.lower(start)
        analyses.append(analyse_step(topology, mesh, lowered, parts.held()))
        steps[kind] = lowered, analyses[-1].compiled
    whole = analyses[0]
    if save is not None:
        if not all(analysis.fits for analysis in analyses):
            raise ArgumentError(f"save: the step does not fit in the memory of {topology}")
        save_steps(save, parts, steps)
    row = whole.to_json()
    if inside is not None:
        names = ("peak_bytes_per_chip", "memory_bytes_per_chip", "fits")
        row = {**inside.to_json(), **{name: row[name] for name in names}}
    return whole, {**row, "steps_per_batch": parts.config.method.steps}


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


def _held(row: dict[str, Any]) -> str:
    sizes = ", ".join(
        f"{kind} {size / 2**20:.1f}" for kind, size in row["memory_bytes_per_chip"].items() if size
    )
    return f"{row['topology']}: MiB on each chip: {sizes}"


def _does_not_fit(analysis: Analysis, plan: sharding.Plan | None) -> str:
    held = [] if plan is None else plan.rows()
    rows = sorted(held, key=lambda row: -row.bytes_per_device)[:LARGEST]
    arrays = ", ".join(
        f"{row.name} {row.dtype}{list(row.shape)} ({row.bytes_per_device / 2**30:.2f})" for row in rows
    )
    text = (
        f"{analysis.topology}: does not fit: {analysis.peak_bytes / 2**30:.2f} GiB per chip, which has "
        f"{(analysis.capacity or 0) / 2**30:.0f}."
    )
    return f"{text} The largest arrays, in GiB per chip: {arrays}" if arrays else text
