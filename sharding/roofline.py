"""How long a step takes at least: published rates of TPU chips, and the compiler's counts."""

import itertools
from collections import Counter
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


def roofline(
    topology: str,
    flops: float,
    bytes_accessed: float,
    exchanged: Sequence[Collective],
    places: Sequence[Sequence[int]] = (),
) -> Roofline:
    """The terms of one step on a topology, from what the compiler counts for one chip.

    **Arguments:** `places` of the mesh's chips in their slice, one after another; row by row if left out.
    """
    chip = chip_of(topology)
    lengths = [int(length) for length in topology.split(":")[1].split("x")]
    places = places or [*itertools.product(*map(range, lengths))]
    load = sum(_load(x, chip.ring, lengths, places) * (x.times or 1) for x in exchanged)
    return Roofline(flops / chip.flops, bytes_accessed / chip.bandwidth, load / chip.link)


def _load(x: Collective, ring: int, lengths: Sequence[int], places: Sequence[Sequence[int]]) -> float:
    """Bytes that the busiest link carries in one direction, where each group of chips has its own links.

    Where the chips of a group close to a ring there are two ways round: where they are whole axes of a slice
    that are rings, or chips of several axes, through which a ring can be drawn. Other groups are lines, whose
    ends have one link. The links of several axes are never used at once, as they may be.
    """
    closed = any(n >= ring and x.devices % n == 0 for n in lengths) or x.devices > max(lengths)
    if x.kind == "collective-permute":
        # In a loop the compiler sends to both neighbours at once, by two of them.
        return x.bytes * _passing(x.pairs, ring, lengths, places) / (2 if x.looped else 1)
    if x.kind == "all-to-all":  # half of the group to the other half
        return x.bytes * x.devices / (8 if closed and x.devices > 2 else 4)
    return x.sent / (2 if closed and x.devices > 2 else 1)


def _passing(
    pairs: Sequence[tuple[int, int]], ring: int, lengths: Sequence[int], places: Sequence[Sequence[int]]
) -> int:
    """How many of the pairs pass the busiest link, if each goes along one axis after the other by the shorter
    way."""
    passed: Counter[tuple[tuple[int, ...], int, int]] = Counter()
    for source, target in pairs:
        if max(source, target) >= len(places):
            return 1
        here = [*places[source]]
        for axis, (length, there) in enumerate(zip(lengths, places[target], strict=False)):
            ahead = (there - here[axis]) % length
            onward = ahead <= length / 2 if length >= ring else there > here[axis]
            while here[axis] != there:
                passed[(*here,), axis, onward] += 1
                here[axis] = (here[axis] + (1 if onward else -1)) % length
    return max(passed.values(), default=1)
