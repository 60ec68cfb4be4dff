"""Meshes: how many devices an axis has, and which devices they are."""

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from ..errors import ArgumentError

DATA, FSDP, STAGE, MODEL = "data", "fsdp", "stage", "model"
AXES = (DATA, FSDP, STAGE, MODEL)
"""Mesh axes, in the order of the devices: neighbours first share an array's features."""

Kind = Literal["auto", "explicit"]


@dataclass(frozen=True)
class MeshConfig:
    """How the devices are arranged.

    **Arguments:**

    - `data`, `model`, `stage`: how many parts batches, features and stacks of layers are divided into.
    - `fsdp`: how many parts batches (beside `data`) and, between their uses, parameters with all that belongs
      to them are divided into. One of the sizes may be -1: whatever the devices give.
    - `dcn`: the part of each axis that runs over the network between slices (pods of several slices); the
      rest runs inside slices. These are pairs of name and size, of which one may be -1.
    - `axis_type`: "auto" or "explicit" (JAX's sharding in types).

    **Errors:** `ArgumentError` for sizes that are none.
    """

    data: int = 1
    model: int = 1
    stage: int = 1
    fsdp: int = 1
    dcn: tuple[tuple[str, int], ...] = ()
    axis_type: Kind = "auto"

    def __post_init__(self) -> None:
        for name in AXES:
            _check_size(f"mesh: {name}", getattr(self, name))
        for name, size in self.dcn:
            _check_name(name)
            _check_size(f"mesh: dcn.{name}", size)
        for what, sizes in (("mesh", self.sizes.items()), ("mesh: dcn", self.dcn)):
            inferred = [name for name, size in sizes if size == -1]
            if len(inferred) > 1:
                raise ArgumentError(f"{what}: only one size may be -1, given {', '.join(inferred)}")
        if self.axis_type not in ("auto", "explicit"):
            raise ArgumentError(f"mesh: axis_type: expected 'auto' or 'explicit', given {self.axis_type!r}")

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each axis."""
        return {name: getattr(self, name) for name in AXES}

    @classmethod
    def parse(cls, text: str) -> "MeshConfig":
        """Reads a text such as `data=2,model=2,stage=1`; it may also have `dcn.data=2`, `axis_type=explicit`.

        **Errors:** `ArgumentError` naming the entry.
        """
        values: dict[str, Any] = {}
        dcn: dict[str, int] = {}
        for entry in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = (part.strip() for part in entry.partition("="))
            place = dcn if name.startswith("dcn.") else values
            key = name.removeprefix("dcn.")
            if key in place:
                raise ArgumentError(f"mesh: {name} is given twice in {text!r}")
            if name == "axis_type":
                values[name] = value
                continue
            _check_name(key)
            if not re.fullmatch(r"-?\d+", value):
                raise ArgumentError(f"mesh: expected NAME=NUMBER such as data=2, given {entry!r}")
            place[key] = int(value)
        if not values and not dcn:
            raise ArgumentError(f"mesh: expected sizes such as data=2,model=2, given {text!r}")
        return cls(**values, dcn=tuple(dcn.items()))

    def __str__(self) -> str:
        entries = [f"{name}={size}" for name, size in self.sizes.items() if size != 1]
        entries += [f"dcn.{name}={size}" for name, size in self.dcn if size != 1]
        entries += ["axis_type=explicit"] if self.axis_type == "explicit" else []
        return ",".join(entries) or "data=1"

    def resolve(self, devices: int, slices: int = 1) -> tuple[dict[str, int], dict[str, int]]:
        """The sizes of all axes, and the part of each that runs between slices.

        **Errors:** `ArgumentError` where they do not multiply to the devices or slices.
        """
        sizes = _infer("mesh", self.sizes, devices, "devices")
        between = _infer("mesh: dcn", {name: 1 for name in AXES} | dict(self.dcn), slices, "slices")
        for name in AXES:
            if sizes[name] % between[name]:
                raise ArgumentError(
                    f"mesh: {name}={sizes[name]} is not divided by its dcn size {between[name]}"
                )
        return sizes, between


def make_mesh(config: MeshConfig | str, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the axes `AXES`, all of them, also those of size 1.

    **Arguments:** a `MeshConfig` or its text; `devices`, all of this program's if None. Where they
    have a network topology (TPUs), neighbours on an axis are neighbours on it.

    **Errors:** `ArgumentError` where the sizes do not multiply to the devices.
    """
    config = MeshConfig.parse(config) if isinstance(config, str) else config
    devices = list(jax.devices() if devices is None else devices)
    slices = len({getattr(device, "slice_index", 0) or 0 for device in devices})
    sizes, between = config.resolve(len(devices), slices)
    shape = tuple(sizes[name] for name in AXES)
    if slices > 1:
        inside = tuple(sizes[name] // between[name] for name in AXES)
        arranged = mesh_utils.create_hybrid_device_mesh(
            inside, tuple(between[name] for name in AXES), devices
        )
    else:
        arranged = _arrange(shape, devices)
    kind = AxisType.Explicit if config.axis_type == "explicit" else AxisType.Auto
    return Mesh(arranged, AXES, axis_types=(kind,) * len(AXES))


def examples(mesh: Mesh) -> str | tuple[str, ...]:
    """The entry of a `PartitionSpec` for the axis along which examples lie."""
    return (DATA, FSDP) if mesh.shape.get(FSDP, 1) > 1 else DATA


def example_parts(mesh: Mesh) -> int:
    """Into how many parts a batch is divided."""
    return int(mesh.shape.get(DATA, 1) * mesh.shape.get(FSDP, 1))


def describe_parts(mesh: Mesh) -> str:
    """In words, what a batch is divided over."""
    sizes = [f"{name}={mesh.shape[name]}" for name in (DATA, FSDP) if mesh.shape.get(name, 1) > 1]
    return f"mesh axis {sizes[0]}" if len(sizes) < 2 else f"mesh axes {'*'.join(sizes)}"


def _arrange(shape: tuple[int, ...], devices: Sequence[Any]) -> Any:
    try:
        return mesh_utils.create_device_mesh(shape, devices)
    except NotImplementedError:
        # The physical axes do not multiply to these logical ones: any order is correct.
        return np.array(devices).reshape(shape)


def _infer(what: str, sizes: dict[str, int], total: int, of: str) -> dict[str, int]:
    known = math.prod(size for size in sizes.values() if size != -1)
    rest, remainder = divmod(total, known)
    if remainder or (rest != 1 and -1 not in sizes.values()):
        given = ", ".join(f"{name}={size}" for name, size in sizes.items())
        raise ArgumentError(
            f"{what}: expected sizes that multiply to the {total} {of} there are, given {given}"
            f"{'' if -1 in sizes.values() else f' (product {known}); one may be -1'}"
        )
    return {name: rest if size == -1 else size for name, size in sizes.items()}


def _check_name(name: str) -> None:
    if name not in AXES:
        raise ArgumentError(f"mesh: no axis {name!r}{nearest(name, AXES)}")


def _check_size(what: str, size: Any) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or (size < 1 and size != -1):
        raise ArgumentError(f"{what}: expected a size of at least 1, or -1 to infer it, given {size!r}")


def nearest(name: str, known: Sequence[str]) -> str:
    """What a message adds about a name that is not known: the likely one, or all."""
    found = difflib.get_close_matches(name, known, 3, 0.5)
    return f"; did you mean {' or '.join(found)}?" if found else f"; there are {', '.join(known)}"
