"""Compile a sharded solver step for TPU pods ahead of time: memory, communication, predicted time."""

import argparse
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from rich.table import Table

from .. import sharding
from ..errors import ArgumentError
from ..sharding.topology import Analysis, analyse, topology_devices
from ..training import make_loss
from ..training.config import FROM_FORWARD_PASS, TrainConfig
from ..training.steps import make_solver
from .options import NETWORK, TRAINING, add_options, console, given_fields

SOLVER = {
    "solver": (str, "the projection solver (default: ap)"),
    **{name: TRAINING[name] for name in ("relaxation", "beta", "form", "metric")},
}
LARGEST = 5
"""How many arrays are named where a step does not fit."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pjax-prim aot`."""
    parser.add_argument(
        "--topology", action="append", required=True, metavar="CHIP:AxB",
        help="such as v5e:16x16, v5p:8x8x8, v6e:16x16; again for each row of a table",
    )  # fmt: skip
    parser.add_argument(
        "--mesh", action="append", required=True, dest="meshes", metavar="data=N,model=N",
        help="how the chips are divided; -1 is inferred; once, or once for each topology",
    )  # fmt: skip
    add_options(parser, {**NETWORK, **SOLVER})
    parser.add_argument(
        "--batch-per-data", type=int, metavar="N",
        help="instead of --batch-size: examples for each part of the mesh's data axis",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32",
        help="of parameters and data (default: float32)",
    )  # fmt: skip
    parser.add_argument("--show-plan", action="store_true", help="print how every array is divided")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Prints a table with a row for each topology; returns the figures."""
    config = TrainConfig(**{"solver": "ap", **given_fields(options)})
    if config.solver in FROM_FORWARD_PASS:
        raise ArgumentError(f"solver: aot compiles solvers that keep copies, given {config.solver}")
    several = len(options.topology)
    meshes = options.meshes * several if len(options.meshes) == 1 else options.meshes
    if len(meshes) != several:
        raise ArgumentError(
            f"mesh: expected one, or one for each of {several} topologies, given {len(meshes)}"
        )
    out = console(options)
    results, problems = [], []
    for topology, mesh in zip(options.topology, meshes, strict=True):
        plan = make_plan(config, topology, mesh, options.dtype, options.batch_per_data)
        if options.show_plan:
            out.print(str(plan), markup=False, soft_wrap=True)
        analysis = analyse(topology, plan)
        results.append(analysis.to_json())
        if not analysis.fits:
            problems.append(_does_not_fit(analysis, plan))
    out.print(_table(config, results))
    for row in results:
        if row["fits"]:
            out.print(_exchanged(row), markup=False, soft_wrap=True)
    for problem in problems:
        out.print(problem, markup=False, soft_wrap=True)
    return results[0] if len(results) == 1 else {"topologies": results}


def make_plan(
    config: TrainConfig, topology: str, mesh: str, dtype: str, batch_per_data: int | None
) -> sharding.Plan:
    """The plan of a network's solver on the chips of a topology."""
    chips = sharding.make_mesh(mesh, topology_devices(topology))
    dataset = config.load_data()
    batch = config.batch_size if batch_per_data is None else batch_per_data * chips.shape["data"]
    model = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, dtype) if isinstance(x, jax.ShapeDtypeStruct) else x,
        eqx.filter_eval_shape(config.make_model, dataset),
    )
    x = jax.ShapeDtypeStruct((batch, dataset.features), jnp.dtype(dtype))
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    return sharding.make_plan(make_loss(config), model, x, labels, solver=make_solver(config), mesh=chips)


def _table(config: TrainConfig, results: list[dict[str, Any]]) -> Table:
    table = Table(title=f"{config.solver}, {config.model} {list(config.hidden)}: one step, per chip")
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


def _does_not_fit(analysis: Analysis, plan: sharding.Plan) -> str:
    rows = sorted(plan.rows(), key=lambda row: -row.bytes_per_device)[:LARGEST]
    arrays = ", ".join(
        f"{row.name} {row.dtype}{list(row.shape)} ({row.bytes_per_device / 2**30:.2f})" for row in rows
    )
    return (
        f"{analysis.topology}: does not fit: {analysis.peak_bytes / 2**30:.2f} GiB per chip, which has "
        f"{analysis.capacity / 2**30:.0f}. The largest arrays, in GiB per chip: {arrays}"
    )
