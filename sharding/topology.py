"""A sharded step compiled ahead of time: for TPUs that are not there, or for the devices that are."""

import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from ..errors import ArgumentError
from .collectives import Collective, collectives, summary
from .counting import repeated
from .plan import Plan
from .program import Program
from .roofline import Roofline, chip_of, roofline

HERE = "here"
"""The topology of the devices that this program has."""

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
    """One step on one topology, for each chip.

    - `chips`: how many.
    - `peak_bytes`: of arguments, results, temporary arrays and code. Where the compiler found that it
      does not fit, what it wanted.
    - `fits`, in the chip's memory `capacity`; None where that is not known.
    - `memory`: bytes by kind of array, which add up to `peak_bytes`: arguments (under the names they were
      given), `padding` that the compiler adds to them, `results` that take over the memory of no argument,
      `temporary`, `code`. Of a step that does not fit the arguments alone.
    - `exchanged`: the collectives, and `flops`, `bytes_accessed`, `terms`, with all iterations of loops (of
      those whose length depends on values with one; `open_ended` says how many there are). None if the
      step did not compile because it does not fit, `terms` also where the chip's rates are not known.
    - `compiled`: the step.
    """

    topology: str
    mesh: str
    chips: int
    peak_bytes: int
    capacity: int | None
    fits: bool
    memory: Mapping[str, int]
    exchanged: list[Collective] | None = None
    flops: float | None = None
    bytes_accessed: float | None = None
    terms: Roofline | None = None
    open_ended: int = 0
    compiled: Any = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        """All figures, under the names of the command line."""
        terms = self.terms
        return {
            "topology": self.topology,
            "mesh": self.mesh,
            "chips": self.chips,
            "peak_bytes_per_chip": self.peak_bytes,
            "capacity_bytes_per_chip": self.capacity,
            "memory_bytes_per_chip": dict(self.memory),
            "fits": self.fits,
            "collectives": None if self.exchanged is None else summary(self.exchanged),
            "flops_per_chip": self.flops,
            "bytes_accessed_per_chip": self.bytes_accessed,
            "loops_of_unknown_length": self.open_ended,
            "arithmetic_s": terms and terms.arithmetic_s,
            "memory_s": terms and terms.memory_s,
            "interconnect_s": terms and terms.interconnect_s,
            "predicted_step_s": terms and terms.step_s,
        }


def topology_devices(topology: str, slices: int = 1) -> Sequence[Any]:
    """Descriptions of the chips of a TPU topology such as `v5e:16x16`, or the devices that are `here`.

    **Arguments:** `slices`: so many slices of this topology, between which a network runs.

    **Errors:** `ArgumentError` for an unknown topology, or without libtpu.
    """
    if topology == HERE:
        return jax.devices()
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
        described = topologies.get_topology_desc(platform="tpu", topology_name=topology, num_slices=slices)
    except Exception as error:  # whatever libtpu makes of a name it does not know
        reason = str(error).splitlines()[0]
        raise ArgumentError(f"topology: libtpu knows no {topology!r} ({reason})") from None
    return list(described.devices)


def analyse(topology: str, plan: Plan) -> Analysis:
    """Compiles the plan's step for its mesh, whose devices are those of a topology.

    **Cost:** a compilation, a minute or more for networks of many different layers.
    """
    step: Any = plan.step
    held: dict[str, int] = {}
    for row in plan.rows():
        held[row.kind] = held.get(row.kind, 0) + row.bytes_per_device
    lowered = step.lower(plan.abstract_state(), plan.abstract_arguments()[1])
    return analyse_step(topology, plan.mesh, lowered, held)


def analyse_step(
    topology: str, mesh_of: Mesh | None, lowered: jax.stages.Lowered, held: Mapping[str, int]
) -> Analysis:
    """Compiles a step that was lowered for a mesh, whose devices are those of a topology.

    **Arguments:** `held`: bytes of its arguments on each chip, by kind.
    """
    chip = None if topology == HERE else chip_of(topology)
    shape = {} if mesh_of is None else mesh_of.shape
    mesh = ",".join(f"{name}={size}" for name, size in shape.items() if size > 1)
    chips = 1 if mesh_of is None else mesh_of.size
    capacity = None if chip is None else chip.memory
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        wanted = _wanted_bytes(str(error))
        if wanted is None:
            raise
        return Analysis(topology, mesh, chips, wanted, capacity, False, held)
    found: Any = compiled.memory_analysis()
    memory = {
        **held,
        "padding": found.argument_size_in_bytes - sum(held.values()),
        "results": found.output_size_in_bytes - found.alias_size_in_bytes,
        "temporary": found.temp_size_in_bytes,
        "code": found.generated_code_size_in_bytes,
    }
    peak = sum(memory.values())
    costs: Any = compiled.cost_analysis()
    try:
        text = compiled.as_text() or ""
    except jax.errors.JaxRuntimeError as error:
        # jax 0.10 has no words for what it compiles for v5p.
        raise ArgumentError(
            f"topology: the program compiled for {topology} cannot be read by this version of jax: "
            f"use a newer one ({str(error).splitlines()[0]})"
        ) from error
    program = Program.parse(text)
    more = repeated(program)
    flops, accessed = float(costs["flops"]) + more[0], float(costs["bytes accessed"]) + more[1]
    exchanged = collectives(program)
    places = [] if mesh_of is None else [getattr(x, "coords", ()) for x in mesh_of.devices.flat]
    terms = None if chip is None else roofline(topology, flops, accessed, exchanged, places)
    fits = capacity is None or peak <= capacity
    return Analysis(
        topology, mesh, chips, peak, capacity, fits, memory, exchanged, flops, accessed, terms,
        program.open_loops, compiled,
    )  # fmt: skip


def _wanted_bytes(message: str) -> int | None:
    """What the compiler's message says it would take; None if it is about something else."""
    found = re.search(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm", message) or re.search(
        r"\(([\d.]+)([KMGT]?)\) exceeds available HBM", message
    )
    if found is None:
        return None
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2] or " "))
