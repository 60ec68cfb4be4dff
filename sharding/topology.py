"""A sharded step compiled for TPUs that are not there."""

import importlib.util
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from ..errors import ArgumentError
from .collectives import Collective, collectives, summary
from .plan import Plan
from .roofline import Roofline, chip_of, roofline

_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""Keeps libtpu from asking a metadata server, which only TPU machines have, and from locking out
other compilations: no chip is used."""


@dataclass(frozen=True)
class Analysis:
    """One solver step on one topology, for each chip.

    - `chips`: how many.
    - `peak_bytes`: of arguments, results, temporary arrays and code. Where the compiler found that it
      does not fit, what it wanted.
    - `fits`, in the chip's memory `capacity`.
    - `exchanged`: the collectives, and `flops`, `bytes_accessed`, `terms`; None if the step did not
      compile because it does not fit.
    """

    topology: str
    mesh: str
    chips: int
    peak_bytes: int
    capacity: int
    fits: bool
    exchanged: list[Collective] | None = None
    flops: float | None = None
    bytes_accessed: float | None = None
    terms: Roofline | None = None

    def to_json(self) -> dict[str, Any]:
        """All figures, under the names of the command line."""
        terms = self.terms
        return {
            "topology": self.topology,
            "mesh": self.mesh,
            "chips": self.chips,
            "peak_bytes_per_chip": self.peak_bytes,
            "capacity_bytes_per_chip": self.capacity,
            "fits": self.fits,
            "collectives": None if self.exchanged is None else summary(self.exchanged),
            "flops_per_chip": self.flops,
            "bytes_accessed_per_chip": self.bytes_accessed,
            "arithmetic_s": terms and terms.arithmetic_s,
            "memory_s": terms and terms.memory_s,
            "interconnect_s": terms and terms.interconnect_s,
            "predicted_step_s": terms and terms.step_s,
        }


def topology_devices(topology: str) -> Sequence[Any]:
    """Descriptions of the chips of a TPU topology such as `v5e:16x16`.

    **Errors:** `ArgumentError` for an unknown topology, or without libtpu.
    """
    chip_of(topology)
    if not re.fullmatch(r"\w+:\d+x\d+(x\d+)?", topology):
        raise ArgumentError(
            f"topology: expected CHIP:AxB or CHIP:AxBxC such as v5e:16x16, given {topology!r}"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise ArgumentError("topology: compiling for TPUs needs libtpu: pip install 'pjax-prim[aot]'")
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not jax.config.jax_platforms:  # type: ignore[attr-defined, unused-ignore]
        jax.config.update("jax_platforms", "cpu")  # the topology is described, not attached
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except Exception as error:  # whatever libtpu makes of a name it does not know
        reason = str(error).splitlines()[0]
        raise ArgumentError(f"topology: libtpu knows no {topology!r} ({reason})") from None
    return list(described.devices)


def analyse(topology: str, plan: Plan) -> Analysis:
    """Compiles the plan's step for its mesh, whose devices are those of a topology.

    **Cost:** a compilation, a minute or more for networks of many different layers.
    """
    step: Any = plan.step
    return analyse_step(topology, plan.mesh, step.lower(plan.abstract_state(), plan.abstract_arguments()[1]))


def analyse_step(topology: str, mesh_of: Mesh, lowered: Any) -> Analysis:
    """Compiles a step that was lowered for a mesh, whose devices are those of a topology."""
    chip = chip_of(topology)
    mesh = ",".join(f"{name}={size}" for name, size in mesh_of.shape.items() if size > 1)
    chips = mesh_of.size
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        wanted = _wanted_bytes(str(error))
        if wanted is None:
            raise
        return Analysis(topology, mesh, chips, wanted, chip.memory, False)
    memory = compiled.memory_analysis()
    peak = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    costs = compiled.cost_analysis()
    flops, accessed = float(costs["flops"]), float(costs["bytes accessed"])
    exchanged = collectives(compiled.as_text())
    terms = roofline(topology, flops, accessed, exchanged)
    return Analysis(
        topology, mesh, chips, peak, chip.memory, peak <= chip.memory, exchanged, flops, accessed, terms
    )


def _wanted_bytes(message: str) -> int | None:
    """What the compiler's message says it would take; None if it is about something else."""
    found = re.search(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm", message) or re.search(
        r"\(([\d.]+)([KMGT]?)\) exceeds available HBM", message
    )
    if found is None:
        return None
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2] or " "))
