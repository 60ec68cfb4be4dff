"""Partition rules: from the path of a parameter to a `PartitionSpec`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jax.sharding import Mesh, PartitionSpec

from ..errors import ArgumentError
from ..graph.paths import Pattern, matches
from .mesh import DATA, FSDP, MODEL, nearest

Rule = tuple[Pattern, PartitionSpec]
"""A pattern of paths, and what it means for the parameters it matches."""


def apply_rules(
    rules: Iterable[Rule], shapes: Mapping[str, tuple[int, ...]], mesh: Mesh
) -> dict[str, PartitionSpec]:
    """What the rules say; the first that matches a parameter counts, the others have none.

    **Arguments:** `shapes` of all parameters by their path.

    **Errors:** `ArgumentError` for a rule that matches no parameter, names an axis that the mesh
    does not have, has more entries than a matched parameter has axes, or divides an axis into parts of
    unequal size.
    """
    found: dict[str, PartitionSpec] = {}
    for pattern, spec in rules:
        text = pattern if isinstance(pattern, str) else pattern.pattern
        matched = [path for path in shapes if matches(pattern, path)]
        if not matched:
            raise ArgumentError(f"rules: {text!r} matches no parameter{nearest(text, list(shapes))}")
        for path in matched:
            check_spec(f"rules: {text!r}: {path}", spec, shapes[path], mesh)
            found.setdefault(path, spec)
    return found


def default_spec(mesh: Mesh, shape: tuple[int, ...], stacked: int = 0) -> PartitionSpec:
    """How a parameter is divided unless a rule says otherwise: the first axis that `model` divides over it,
    and another over `fsdp` (`between_uses`).

    **Arguments:** `stacked`: so many first axes run along the iterations of a loop, which takes them one
    after the other; they stay whole.
    """
    entries: list[Any] = [None] * len(shape)
    parts = mesh.shape.get(MODEL, 1)
    if parts > 1:
        fitting = (axis for axis in range(stacked, len(shape)) if shape[axis] % parts == 0)
        if (axis := next(fitting, None)) is not None:
            entries[axis] = MODEL
    entries = [*between_uses(mesh, shape, entries, stacked)]
    while entries and entries[-1] is None:
        entries.pop()
    return PartitionSpec(*entries)


def between_uses(
    mesh: Mesh, shape: tuple[int, ...], entries: Sequence[Any], stacked: int = 0
) -> tuple[Any, ...]:
    """The entries of a spec for a parameter between its uses: the longest free axis is divided over `fsdp`.

    A vector or a number stays whole: what gathering it would take is more than what it holds. Arguments as
    for `default_spec`.
    """
    parts = mesh.shape.get(FSDP, 1)
    free = [axis for axis in range(stacked, len(shape)) if entries[axis] is None and shape[axis] % parts == 0]
    if parts == 1 or len(shape) - stacked < 2 or not free or any(FSDP in axis_names(x) for x in entries):
        return tuple(entries)
    longest = max(free, key=lambda axis: shape[axis])
    return tuple(FSDP if axis == longest else entry for axis, entry in enumerate(entries))


def when_used(entries: Sequence[Any]) -> tuple[Any, ...]:
    """The entries of a spec without `fsdp`."""
    kept = [tuple(name for name in axis_names(entry) if name != FSDP) for entry in entries]
    return tuple(x if len(x) > 1 else x[0] if x else None for x in kept)


def when_summed(mesh: Mesh, shape: tuple[int, ...], entries: Sequence[Any]) -> tuple[Any, ...]:
    """The entries of a spec with which a sum over examples is made: in parts of `fsdp` and `data`.

    Compilers make one operation of a sum over devices of which each keeps a part only where the parts are as
    many as the devices. Where examples are divided over `data`, too, these parts are then gathered over
    `data`: as many bytes as a sum over `fsdp` alone and one of its parts over `data`.
    """

    entries = once_each(entries)
    examples = any(DATA in axis_names(entry) for entry in entries)

    def both(axis: int, entry: Any) -> Any:
        names = axis_names(entry)
        wanted = (*names, DATA)
        fits = FSDP in names and not examples and mesh.shape.get(DATA, 1) > 1
        return wanted if fits and shape[axis] % divisor(wanted, mesh) == 0 else entry

    return tuple(both(axis, entry) for axis, entry in enumerate(entries))


def once_each(entries: Sequence[Any]) -> tuple[Any, ...]:
    """The entries of a spec, where the first that names a mesh axis keeps it."""
    found: list[Any] = []
    for axis, entry in enumerate(entries):
        taken = {name for other in entries[:axis] for name in axis_names(other)}
        names = axis_names(entry)
        found.append(entry if taken.isdisjoint(names) else None)
    return tuple(found)


def check_spec(what: str, spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh) -> None:
    """`spec` divides an array of this shape. `ArgumentError` that begins with `what` if not."""
    if not isinstance(spec, PartitionSpec):
        raise ArgumentError(f"{what}: expected a PartitionSpec, given {spec!r}")
    if len(spec) > len(shape):
        raise ArgumentError(f"{what}: {spec} has {len(spec)} entries, shape {shape} has {len(shape)} axes")
    seen: list[str] = []
    for axis, entry in enumerate(spec):
        names = axis_names(entry)
        for name in names:
            if name not in mesh.axis_names:
                raise ArgumentError(f"{what}: no mesh axis {name!r}{nearest(name, mesh.axis_names)}")
        seen += names
        parts = divisor(names, mesh)
        if shape[axis] % parts:
            raise ArgumentError(
                f"{what}: axis {axis} of length {shape[axis]} is not divided by "
                f"{'*'.join(f'{name}={mesh.shape[name]}' for name in names)}"
            )
    if len(set(seen)) < len(seen):
        raise ArgumentError(f"{what}: {spec} names a mesh axis twice")


def axis_names(entry: object) -> tuple[str, ...]:
    """The mesh axes of one entry of a `PartitionSpec`."""
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, str) else tuple(entry)  # type: ignore[arg-type]


def divisor(names: Sequence[str], mesh: Mesh) -> int:
    """Into how many parts an array's axis is divided."""
    parts = 1
    for name in names:
        parts *= mesh.shape[name]
    return parts
