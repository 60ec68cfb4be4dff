"""What a compiled program exchanges between devices, read from its text."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_START = "|".join((*KINDS, "ragged-all-to-all", "collective-broadcast"))
_OPERATION = re.compile(rf"^\s*(?:ROOT )?%?[\w.-]+ = (.*?) ({_START})(-start)?\(", re.M)
_ARRAY = re.compile(r"\b(pred|[a-z]+[0-9]+(?:e\dm\d\w*)?)\[([0-9,]*)\]")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_CALLED = re.compile(r"(?:body|condition|calls|to_apply|branch_computations)=\{?((?:%?[\w.-]+(?:, )?)+)")
_LOOP = re.compile(r" while\(.*(?:condition|body)=%?([\w.-]+), (?:condition|body)=%?([\w.-]+)")


@dataclass(frozen=True)
class Collective:
    """One operation between devices, which may move several arrays.

    - `kind`: one of `KINDS`, or another name of XLA's.
    - `arrays`: shapes of what it results in on each device.
    - `bytes`: of those arrays; of a reduce-scatter those of what it takes.
    - `devices`: how many take part in each group.
    - `looped`: whether it is in the body of a loop, so that it happens any number of times.
    """

    kind: str
    arrays: tuple[tuple[int, ...], ...]
    bytes: int
    devices: int
    looped: bool

    @property
    def sent(self) -> float:
        """Bytes that each device sends at least (ring algorithms)."""
        share = (self.devices - 1) / self.devices
        if self.kind == "collective-permute":
            return self.bytes
        return (2 if self.kind == "all-reduce" else 1) * share * self.bytes


def collectives(text: str) -> list[Collective]:
    """All collectives of a compiled program (`compiled.as_text()`) between at least two devices."""
    looped = _looped_computations(text)
    found = []
    chains: set[tuple[str, str]] = set()
    for computation, line in _lines(text):
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
        arrays = [
            (name, tuple(int(size) for size in sizes.split(",") if size))
            for name, sizes in _ARRAY.findall(result)
        ]
        if started and kind != "all-reduce":
            # (operands, results) and, for a permutation, two numbers of its own
            whole = [x for x in arrays if kind != "collective-permute" or x[1]]
            arrays = whole[len(whole) // 2 :]
        devices = _group_size(line)
        factor = devices if match[2] == "reduce-scatter" else 1
        size = sum(_width(name) * math.prod(shape) for name, shape in arrays) * factor
        if devices > 1:
            shapes = tuple(shape for _, shape in arrays)
            found.append(Collective(kind, shapes, int(size), devices, computation in looped))
    return found


def summary(found: Sequence[Collective]) -> dict[str, dict[str, int]]:
    """For each kind that occurs the `count` and the `bytes` (see `Collective.bytes`)."""
    return {
        kind: {
            "count": sum(x.kind == kind for x in found),
            "bytes": sum(x.bytes for x in found if x.kind == kind),
        }
        for kind in sorted({x.kind for x in found})
    }


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """Each line with the name of the computation it is in."""
    current = ""
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            current = header[1]
        yield current, line


def _looped_computations(text: str) -> set[str]:
    """The computations that a loop repeats, directly or by calls."""
    calls: dict[str, set[str]] = {}
    found: set[str] = set()
    for computation, line in _lines(text):
        for names in _CALLED.findall(line):
            calls.setdefault(computation, set()).update(x.lstrip("%") for x in names.split(", "))
        if loop := _LOOP.search(line):
            found.update(loop.groups())
    waiting = list(found)
    while waiting:
        new = calls.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found


def _width(dtype: str) -> float:
    """Bytes of a number."""
    if dtype == "pred":
        return 1
    match = re.match(r"[a-z]+(\d+)", dtype)
    return int(match[1]) / 8 if match else 4


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
