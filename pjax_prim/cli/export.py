"""Write the parameters of a run to one file, .eqx or .safetensors."""

import argparse
from pathlib import Path
from typing import Any

from ..checkpoint import export_params
from ..training import RunFolder, load_run_model, params_sha256
from .eval import add_choice
from .options import console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `pjax-prim export`."""
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="the folder of the run")
    parser.add_argument(
        "--to", type=Path, metavar="FILE", required=True, help="the file; it ends in .eqx or .safetensors"
    )
    parser.add_argument("--data-dir", metavar="DIR", help="where the data lie now (default: as in training)")
    add_choice(parser)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Exports; returns the file, its size and the hash of the parameters."""
    folder = RunFolder(options.run_dir)
    config = folder.load_config()
    dataset = config.load_data(options.data_dir)
    model = load_run_model(folder, dataset, which=options.parameters, step=options.step)
    export_params(model, options.to)
    size = options.to.stat().st_size
    console(options).print(f"{options.to}: {size:,} bytes", soft_wrap=True)
    return {"file": str(options.to), "bytes": size, "params_sha256": params_sha256(model)}
