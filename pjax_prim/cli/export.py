"""Write the parameters of a run to one file, .eqx or .safetensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tyro

from ..checkpoint import as_path, export_params, storage_of
from ..errors import ArgumentError
from ..training import RunFolder, load_run_model, params_sha256
from .options import Choice, Output, Place, choose_task, parse


@dataclass(frozen=True)
class Export:
    """What is written where.

    Attributes:
        run_dir: the folder of the run.
        to: the file; it ends in .eqx or .safetensors.
    """

    run_dir: tyro.conf.Positional[Place]
    to: Place


def run(arguments: Sequence[str]) -> dict[str, Any]:
    """Exports; returns the file, its size and the hash of the parameters."""
    rest = list(arguments)
    task = [rest.pop(0)] if rest and rest[0].endswith(".py") else []
    helps = {"--help", "-h"} & {*rest}
    if not helps and (not rest or rest[0].startswith("-")):
        raise ArgumentError("export: expected the folder of the run before the options")
    folder = None if helps else RunFolder(as_path(rest[0]))
    file, start, rest = choose_task([*task, *rest], saved=folder)
    parts = {"task": (file.options, start), "run": (Export, Export(tyro.MISSING, tyro.MISSING)),
             "choice": (Choice, Choice()), "output": (Output, Output())}  # fmt: skip
    options = parse("export", rest, parts, __doc__ or "")
    found = RunFolder(options.run.run_dir)
    model, _ = load_run_model(
        file.make(options.task), found, which=options.choice.parameters, step=options.choice.step
    )
    target = options.run.to
    export_params(model, target)
    size = storage_of(target).size(target)
    options.output.console().print(f"{target}: {size:,} bytes", soft_wrap=True)
    return {"file": str(target), "bytes": size, "params_sha256": params_sha256(model)}
