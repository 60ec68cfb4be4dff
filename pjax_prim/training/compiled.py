"""The steps of a run compiled before it, in a file."""

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable

from ..checkpoint import as_path, differences, storage_of
from ..checkpoint.naming import describe, named_arrays
from ..errors import RunError
from .configuration import flat
from .parts import Kind, Parts
from .placing import Metrics, Packed, PackedStep

_DESCRIPTION = "description.json"


def save_steps(
    file: str | Path, parts: Parts, steps: Mapping[Kind, tuple[jax.stages.Lowered, jax.stages.Compiled]]
) -> None:
    """Writes compiled steps of a run; a killed write leaves the file before it.

    **Arguments:** `steps`: for each of `parts.starts()` the step that `parts.lower` gives, and what it was
    compiled to.

    **Errors:** `RunError` where the file cannot be written.
    """
    about = {**describe_steps(parts), "program": [_digest(lowered) for lowered, _ in steps.values()]}
    binaries = [serialize_executable.serialize(compiled)[0] for _, compiled in steps.values()]
    path = as_path(file)
    try:
        with storage_of(path).writing(path) as partial, zipfile.ZipFile(partial, "w") as archive:
            archive.writestr(_DESCRIPTION, json.dumps(about, default=str))
            for number, binary in enumerate(binaries):
                archive.writestr(str(number), binary)
    except OSError as error:
        raise RunError(f"{file}: cannot be written ({error.strerror})") from None


def load_steps(file: str | Path, parts: Parts) -> dict[Kind, PackedStep]:
    """The compiled steps of a run from a file of `save_steps`. Nothing is compiled.

    The file is a program: load only what you, or who you trust, has written.

    **Errors:** `RunError` where there is no such file, and where topology, versions or the text of a step are
    not those of the run; it names what differs.

    **Cost:** a trace of each step, whose text is compared with that of the file.
    """
    with _opened(file) as archive:
        saved = json.loads(archive.read(_DESCRIPTION))
        here = json.loads(json.dumps(describe_steps(parts), default=str))
        texts = saved.pop("program")
        found = {name: differences(saved[name], here[name], "of this run", "in the file") for name in here}
        _refuse(file, [*found["versions"], *found["topology"]])
        lowered = {kind: parts.lower(start) for kind, start in parts.starts().items()}
        if texts != [_digest(step) for step, _ in lowered.values()]:
            code = "program: options and arrays are the same, the step is not: other code of the task"
            _refuse(file, [*found["options"], *found["arrays"]] or [code])
        devices = parts.placing.devices
        steps = {}
        for number, (kind, (step, after)) in enumerate(lowered.items()):
            try:
                loaded = serialize_executable.deserialize_and_load(
                    archive.read(str(number)), step.in_tree, step.out_tree, devices[0].client, devices
                )
            except (ValueError, RuntimeError) as error:
                raise RunError(f"{file}: cannot be loaded on these devices ({error})") from None
            steps[kind] = _packed(loaded, after)
        return steps


def describe_steps(parts: Parts) -> dict[str, dict[str, Any]]:
    """What compiled steps are for: versions, topology, options, arrays; ready for JSON."""
    mesh = parts.placing.mesh
    devices = parts.placing.devices
    first = devices[0]
    arrays = {
        **named_arrays({"state": parts.placing.abstract(parts.shapes)}),
        **named_arrays({"batch": parts.placing.abstract_batch(parts.batch)}),
    }
    origin = {name: parts.task.origin[name] for name in ("name", "options") if name in parts.task.origin}
    return {
        "versions": {
            "jax": version("jax"), "jaxlib": version("jaxlib"), "compiler": first.client.platform_version,
        },
        "topology": {
            "platform": first.platform, "chip": first.device_kind, "devices": len(devices),
            "processes": len({device.process_index for device in devices}),
            "mesh": "" if mesh is None else ",".join(f"{k}={n}" for k, n in mesh.shape.items() if n > 1),
        },
        "options": flat({"config": parts.config.to_dict(), "task": origin}),
        "arrays": describe(arrays),
    }  # fmt: skip


def _packed(loaded: Any, after: Any) -> PackedStep:
    def call(packed: Packed, batch: Any) -> tuple[Packed, Metrics]:
        leaves, metrics = loaded(packed.leaves, batch)
        return Packed(leaves, *after()), metrics

    return call


def _digest(lowered: jax.stages.Lowered) -> str:
    return hashlib.sha256(lowered.as_text().encode()).hexdigest()


def _refuse(file: str | Path, lines: list[str]) -> None:
    if lines:
        raise RunError(f"{file}: holds steps compiled for another run:\n  " + "\n  ".join(lines))


@contextmanager
def _opened(file: str | Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(file) as archive:
            if _DESCRIPTION not in archive.namelist():
                raise zipfile.BadZipFile("no description inside")
            yield archive
    except OSError as error:
        raise RunError(f"{file}: cannot be read ({error.strerror})") from None
    except zipfile.BadZipFile as error:
        raise RunError(f"{file}: not a file of compiled steps ({error})") from None
