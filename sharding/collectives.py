"""What a compiled program exchanges between devices, read from its text."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from .program import Program, arrays_in, size_of

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_START = "|".join((*KINDS, "ragged-all-to-all", "collective-broadcast"))
_OPERATION = re.compile(rf"^\s*(?:ROOT )?%?[\w.-]+ = (.*?) ({_START})(-start)?\(", re.M)


@dataclass(frozen=True)
class Collective:
    """One operation between devices, which may move several arrays.

    - `kind`: one of `KINDS`, or another name of XLA's.
    - `arrays`: shapes of what it results in on each device.
    - `bytes`: the size of those arrays; for a reduce-scatter the size of what it takes.
    - `devices`: how many take part in each group.
    - `looped`: whether it is in the body of a loop.
    - `times`: how often it happens; None in a loop whose length depends on values.
    - `pairs`: of a collective-permute who sends to whom, as positions in the mesh.
    """

    kind: str
    arrays: tuple[tuple[int, ...], ...]
    bytes: int
    devices: int
    looped: bool
    times: int | None = 1
    pairs: tuple[tuple[int, int], ...] = field(default=(), repr=False)

    @property
    def sent(self) -> float:
        """Bytes that each device sends at least each time (ring algorithms)."""
        share = (self.devices - 1) / self.devices
        if self.kind == "collective-permute":
            return self.bytes
        return (2 if self.kind == "all-reduce" else 1) * share * self.bytes


def collectives(program: str | Program) -> list[Collective]:
    """All collectives of a compiled program (`compiled.as_text()`) between at least two devices."""
    if isinstance(program, str):
        program = Program.parse(program)
    found = []
    chains: set[tuple[str, str]] = set()
    for computation, line in _lines(program):
        match = _OPERATION.match(line)
        if match is None:
            continue
        result, kind, started = match.groups()
        if chain := re.search(r'chain_id="(\w+)"', line):
            # The TPU compiler spreads one operation over several fusions that it overlaps with.
            if (kind, chain[1]) in chains:
                continue
            chains.add((kind, chain[1]))
        if computation.startswith("all-reduce-scatter"):  # the TPU compiler's reduce-scatter
            kind = "reduce-scatter"
        arrays = list(arrays_in(result))
        if started and kind != "all-reduce":
            # (operands, results) and, for a permutation, two numbers of its own
            whole = [x for x in arrays if kind != "collective-permute" or x[1]]
            arrays = whole[len(whole) // 2 :]
        devices = _group_size(line)
        factor = devices if match[2] == "reduce-scatter" else 1
        size = int(size_of(arrays) * factor)
        if devices > 1:
            shapes = tuple(shape for _, shape in arrays)
            times = None if computation in program.open_ended else program.times[computation]
            looped = computation in program.looped
            found.append(Collective(kind, shapes, size, devices, looped, times, _pairs(line)))
    return found


def summary(found: Sequence[Collective]) -> dict[str, dict[str, int]]:
    """Gives for each kind that occurs the `count` and the `bytes` (see `Collective.bytes`).

    All iterations of a loop count; of one whose length depends on values, one does.
    """
    return {
        kind: {
            "count": sum(x.times or 1 for x in found if x.kind == kind),
            "bytes": sum(x.bytes * (x.times or 1) for x in found if x.kind == kind),
        }
        for kind in sorted({x.kind for x in found})
    }


def _lines(program: Program) -> Iterator[tuple[str, str]]:
    """Each operation's line with the name of the computation it is in."""
    for name, computation in program.computations.items():
        for operation in computation.values():
            yield name, operation.line


def _pairs(line: str) -> tuple[tuple[int, int], ...]:
    found = re.search(r"source_target_pairs=\{(.*?)\}\}", line)
    return tuple((int(a), int(b)) for a, b in re.findall(r"(\d+),(\d+)", found[1])) if found else ()


def _group_size(line: str) -> int:
    """How many devices exchange with each other."""
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", line):
        return 2 if pairs[1] else 1
    if named := re.search(r"replica_groups=mesh\[(.*?)\][^{]*\{(.*?)\}", line):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", named[1])}
        return math.prod(
            int(part) if part else sizes[name]
            for name, part in re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", named[2])
        )
    if counted := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", line):
        return int(counted[2])
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return len(listed[1].split(","))
    return 1
