"""Partition rules: from the path of a parameter to a `PartitionSpec`."""

from collections.abc import Iterable, Mapping, Sequence

from jax.sharding import Mesh, PartitionSpec

from ..errors import ArgumentError
from ..graph.paths import Pattern, matches
from .mesh import nearest

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
