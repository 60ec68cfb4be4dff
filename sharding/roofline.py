"""How long a step takes at least: published rates of TPU chips, and the compiler's counts."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ArgumentError
from .collectives import Collective
from .mesh import nearest


@dataclass(frozen=True)
class Chip:
    """Published rates of one chip.

    - `flops`: floating-point operations a second, in bfloat16.
    - `memory`: bytes of high-bandwidth memory, and `bandwidth` in bytes a second.
    - `link`: bytes a second of one interconnect link in one direction.
    - `ring`: from which length on an axis of a slice closes to a ring, which has two ways round.
    """

    flops: float
    memory: int
    bandwidth: float
    link: float
    ring: int


GIB = 2**30

CHIPS = {
    "v4": Chip(275e12, 32 * GIB, 1228e9, 50e9, 4),
    "v5e": Chip(197e12, 16 * GIB, 819e9, 50e9, 16),
    "v5p": Chip(459e12, 95 * GIB, 2765e9, 100e9, 4),
    "v6e": Chip(918e12, 32 * GIB, 1640e9, 100e9, 16),
}
"""The chips by the name that a topology begins with.

From Google Cloud's pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e" (cloud.google.com/tpu/docs): peak
compute and bandwidth per chip, and the interconnect per chip of 2400, 1600, 4800 and 3200 Gbit/s over 6, 4, 6
and 4 links.
"""


@dataclass(frozen=True)
class Roofline:
    """Three terms of a step's time in seconds."""

    arithmetic_s: float
    memory_s: float
    interconnect_s: float

    @property
    def step_s(self) -> float:
        """Arithmetic and memory traffic overlap, communication with neither."""
        return max(self.arithmetic_s, self.memory_s) + self.interconnect_s


def chip_of(topology: str) -> Chip:
    """The chip of a topology such as `v5e:16x16`. `ArgumentError` where there is none."""
    name = topology.split(":")[0]
    if name not in CHIPS:
        raise ArgumentError(f"topology: no chip {name!r} in {topology!r}{nearest(name, list(CHIPS))}")
    return CHIPS[name]


def roofline(topology: str, flops: float, bytes_accessed: float, exchanged: Sequence[Collective]) -> Roofline:
    """The terms of one step on a topology, from what the compiler counts for one chip.

    A collective uses one link of each chip, or two where the slice's axes are rings; never the links
    of several axes at once, as it may.
    """
    chip = chip_of(topology)
    lengths = [int(length) for length in topology.split(":")[1].split("x")]
    rate = chip.link * (2 if max(lengths) >= chip.ring else 1)
    interconnect = sum(x.sent * (x.times or 1) for x in exchanged) / rate
    return Roofline(flops / chip.flops, bytes_accessed / chip.bandwidth, interconnect)
