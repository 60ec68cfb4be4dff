"""The command line `pjax-prim`: one file per command, each with `add_arguments` and `run`."""

import argparse
import json
import sys
from collections.abc import Sequence

import pjax_prim as pjp

from ..checkpoint import EXIT_CODE
from ..errors import LostProcessError, NonFiniteError, PjaxError, PreemptedError
from ..sharding.processes import leave
from . import aot, bench, export, graph, inspect, seeds, train
from . import eval as eval_command

COMMANDS = {
    "train": train,
    "seeds": seeds,
    "eval": eval_command,
    "inspect": inspect,
    "export": export,
    "graph": graph,
    "bench": bench,
    "aot": aot,
}


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="pjax-prim", description="Train networks by projections, without gradients.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=pjp.__version__)
    subparsers = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        summary = (command.__doc__ or "").splitlines()[0]
        subparser = subparsers.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        command.add_arguments(subparser)
        subparser.add_argument(
            "--json", action="store_true", help="end with one line of JSON on standard output"
        )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    **Returns:** the exit status: 0; 1 where training met a value that is not finite; 2 for bad
    input (also by `SystemExit`, from argparse); 75 where training was asked to stop by SIGTERM,
    saved a checkpoint and can be resumed; 70 where another process of a run was lost. Messages go to
    standard error, and with `--json` so does all else but the JSON line.
    """
    options = make_parser().parse_args(arguments)
    try:
        result = COMMANDS[options.command].run(options)
    except PreemptedError as error:
        print(f"pjax-prim: {error}", file=sys.stderr)
        return EXIT_CODE
    except PjaxError as error:
        print(f"pjax-prim: error: {error}", file=sys.stderr)
        if isinstance(error, LostProcessError):
            leave()
        return 1 if isinstance(error, NonFiniteError) else 2
    except KeyboardInterrupt:
        print("pjax-prim: interrupted", file=sys.stderr)
        return 130
    if options.json and result is not None:
        print(json.dumps(result))
    return 0
