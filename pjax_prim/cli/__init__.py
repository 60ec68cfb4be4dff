"""The command line `pjax-prim`: one file per command, each with a function `run`."""

import importlib
import json
import sys
from collections.abc import Sequence
from typing import Any

import jax

from pjax_prim_command import INTERRUPTS, make_parser, unheard

from ..errors import LostProcessError, NonFiniteError, PjaxError, PreemptedError

EXTRAS = {
    **dict.fromkeys(("tyro", "rich", "grain", "sklearn", "matplotlib", "yaml"), "train"),
    "safetensors": "safetensors",
    "tensorboardX": "tensorboard",
    "tokenizers": "tokenizers",
    "mlflow": "mlflow",
    "wandb": "wandb",
}
"""Packages that not every command needs, and the extra that brings them."""


def allow_transfers() -> None:
    """Lets a command move arrays, which is meant, where the environment disallows it to a user's own code."""
    config: Any = jax.config
    if str(config.jax_transfer_guard).startswith("disallow"):
        jax.config.update("jax_transfer_guard", "allow")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    **Returns:** the exit status: 0; 1 where training met a value that is not finite; 2 for bad input (for
    the command's name by `SystemExit`, from argparse); 75 where training was asked to stop by SIGTERM, saved
    a checkpoint and can be resumed; 70 where another process of a run was lost (130 after SIGINT: see
    `pjax_prim_command`). Messages go to standard error, and with `--json` so does all else but the JSON line.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = make_parser().parse_args(given[:1]).command
    try:
        command = importlib.import_module(f".{name}", __package__)
        allow_transfers()
        INTERRUPTS.raises = True
        result = command.run(given[1:])
        if "--json" in given and result is not None:
            print(json.dumps(result), flush=True)
        else:
            sys.stdout.flush()
    except PreemptedError as error:
        from ..checkpoint import EXIT_CODE

        print(f"pjax-prim: {error}", file=sys.stderr)
        return EXIT_CODE
    except PjaxError as error:
        print(f"pjax-prim: error: {error}", file=sys.stderr)
        if isinstance(error, LostProcessError):
            from ..sharding.processes import leave

            leave()
        return 1 if isinstance(error, NonFiniteError) else 2
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        extra = f"pip install 'pjax-prim[{EXTRAS[package]}]'"
        print(f"pjax-prim: error: {name}: needs the package {package}; {extra}", file=sys.stderr)
        return 2
    except OSError as error:
        return unheard(error)
    return 0
